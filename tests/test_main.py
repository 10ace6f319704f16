"""The command line: exit codes, one line for what a user can mend, any terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jaxad.data.synthetic import write_dataset
from jaxad.errors import Stopped
from jaxad.main import main

ROOT = Path(__file__).parents[1]

RESULTS = {
    "categories": {"caf\udce9 é": {"image_auroc": 0.5, "n_train": 1, "n_test": 2}},
    "mean": {"image_auroc": 0.5},
    "replicates": {"count": 2, "mean": {"image_auroc": {"mean": 0.5, "sd": 0.1}, "x": None}},
    "seconds": {"features": 1.0, "train": 2.0, "score": 3.0},
    "images_per_second": 7.0,
}


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxad: ")
    return line


@pytest.mark.parametrize(
    "command", [[], ["train"], ["evaluate"], ["status"], ["data"], ["data", "check"]]
)
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: jaxad")
    assert text.isascii()  # it is printed as it is, on any terminal


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["fly"], ["train"], ["evaluate"], ["data"], ["train", "--workdir"]),
        *(["train", "--workdir="], ["evaluate", "--workdir", ""], ["train", "--work=w"]),
    ],
)
def test_unusable_flags(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ([], "--config is missing"),
        (["--config"], "--config"),
        (["--config=nowhere.py"], "nowhere.py: no such file"),
        (["--config=mb_pfm_lite", "more"], "unknown argument 'more'"),
        (["--config=mb_pfm_lite", "--overwite"], "unknown argument '--overwite'"),
        (["--config=mb_pfm_lite", "--config.a.b=3"], "unknown configuration key 'a.b'"),
        (["--config=mb_pfm_lite", "--config.data=3"], "data is a section"),
        (["--config=mb_pfm_lite", "--config.train.seed"], "changes are --config.a.b=VALUE"),
    ],
)
def test_unusable_arguments_of_train(
    rest: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, ["train", f"--workdir={tmp_path / 'w'}", *rest])
    assert not (tmp_path / "w").exists()


def test_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (tmp_path, tmp_path / "none", tmp_path / ("x" * 300)):
        line = refused(capsys, ["evaluate", f"--workdir={place}"])
        assert "config.json" in line


class Stream(io.TextIOWrapper):
    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16"])
def test_results_are_printed_on_any_terminal(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxad.runs.evaluate.evaluate", lambda *args, **kwargs: RESULTS)
    stream = Stream(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["evaluate", "--workdir=caf\udce9"]) == 0
    text = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert r"caf\udce9" in text
    assert ("é" if encoding != "ascii" else r"\xe9") in text
    assert ("0.5000 +- 0.1000" if encoding == "ascii" else "0.5000 ± 0.1000") in text
    assert "scoring 7.0 images a second" in text
    assert "index.html" in text


def test_standard_output_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxad.runs.evaluate.evaluate", lambda *args, **kwargs: RESULTS)
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["evaluate", "--workdir=w"]) == 0


def test_standard_output_that_nobody_reads(tmp_path: Path) -> None:
    write_dataset(
        tmp_path, categories=("a",), n_train=1, n_test_good=1, n_test_bad=1, size=(16, 16)
    )
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "jaxad", "data", "check", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        ran = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=env)
    finally:
        os.close(write)
    assert (ran.returncode, ran.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "jaxad: interrupted\n"),
        (Stopped(15), 143, "jaxad: stopped; the same command goes on from here\n"),
        (OSError(28, "No space left on device", "x\ny"), 2, None),
        (OSError(28, "No space left on device"), 2, None),
    ],
)
def test_what_ends_a_job(
    error: BaseException,
    code: int,
    said: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def job(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("jaxad.runs.evaluate.evaluate", job)
    assert main(["evaluate", "--workdir=w"]) == code
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert said in (None, line)
    assert said or "No space left on device: make room" in line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos whose folders have other names than the layout `folder` looks for."""
    root = tmp_path_factory.mktemp("folder")
    data = write_dataset(
        root / "parts", categories=("a", "b"), n_train=6, n_test_good=1, n_test_bad=2, size=(32, 32)
    )
    assert data.records
    for category in ("a", "b"):
        (root / category).mkdir()
        (root / "parts" / category / "train" / "good").rename(root / category / "ok")
        (root / "parts" / category / "test").rename(root / category / "broken")
        (root / "parts" / category / "ground_truth").rename(root / category / "marked")
    for category in ("a", "b"):
        good = root / category / "broken" / "good"
        good.rename(root / category / "ok_test")
    return root


HOLD_NONE = "--config.data.calibration=0"


def test_data_check_takes_the_keys_that_its_messages_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(folder / "a")
    line = refused(capsys, ["data", "check", root, "--layout=folder"])
    assert "name it by data.folder.normal" in line
    keys = [
        *("--config.data.folder.normal=ok", "--config.data.folder.abnormal=broken"),
        *("--config.data.folder.masks=marked", "--config.data.folder.normal_test=ok_test"),
    ]
    assert main(["data", "check", root, "--layout=folder", *keys]) == 0
    out = capsys.readouterr().out
    assert "layout folder" in out
    assert "train 3 good, calibration 3 good, test 1 good + 2 defective" in out
    assert "masks: 2 present, 0 missing" in out
    # The same by the keys alone, and as a part of several data sets.
    keys.append("--config.data.layout=folder")
    assert main(["data", "check", *keys, f"--config.data.root={root}"]) == 0
    assert capsys.readouterr().out == out
    assert main(["data", "check", *keys, f"--config.data.root={root}", HOLD_NONE]) == 0
    assert "train 6 good, calibration 0 good, test 1" in capsys.readouterr().out
    join = "--config.data.join=(('folder','a'),('folder','b'))"
    assert main(["data", "check", str(folder), "--layout=join", join, *keys[:-1]]) == 0
    assert "2 categories" in capsys.readouterr().out


def test_data_check_of_categories_and_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(
        tmp_path, categories=("a", "b"), n_train=2, n_test_good=1, n_test_bad=2, size=(64, 64)
    )
    assert main(["data", "check", str(tmp_path), "--config.data.categories=b"]) == 0
    out = capsys.readouterr().out
    assert "1 category" in out
    assert "a: train" not in out
    small = "--config.data.image_size=2,2"
    assert main(["data", "check", str(tmp_path), "--decode", small]) == 0
    assert "too small to be seen at 2x2" in capsys.readouterr().out
    assert main(["data", "check", "--config=mb_pfm_lite", f"--config.data.root={tmp_path}"]) == 0
    assert "2 categories" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the folder of the data set"),
        (["nowhere"], "nowhere"),
        (["{0}", "--layout=cubes"], "data.layout='cubes' is unknown"),
        (["{0}", "--layout=cubes", "--config.data.categories=a"], "data.layout is 'cubes': give"),
        (["{0}", "more"], "unknown argument 'more'"),
        (["{0}", "--normal=ok"], "unknown argument '--normal=ok'"),
        (["{0}", "--config.data.image_size=a"], "data.image_size is 'a': give"),
        (["{0}", "--config.data.categories=c"], "no category 'c'"),
        (["{0}"], "can not tell the layout"),
    ],
)
def test_unusable_arguments_of_data_check(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--config.data.categories=c" in arguments:
        write_dataset(tmp_path, categories=("a",), n_train=1, n_test_good=1, size=(16, 16))
    given = [argument.format(tmp_path) for argument in arguments]
    assert message in refused(capsys, ["data", "check", *given])
