"""`jaxad status`: of a run that goes on, was killed, has ended; of folders that are no run's."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from configuring import configured
from conftest import ROOT, files

from jaxad.core import InputError
from jaxad.main import main
from jaxad.runs.lock import locked
from jaxad.runs.status import status
from jaxad.runs.train import train


def lock(workdir: Path, **changes: Any) -> None:
    """As a process of another host has left it."""
    told = {"pid": 7, "host": "elsewhere", "started": 1, **changes}
    (workdir / "jaxad.lock").write_text(json.dumps(told))


def log(workdir: Path, *lines: Any, half: str = "") -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / "train.jsonl").write_text(text + half)


@pytest.fixture
def killed(trained: Path) -> Path:
    """The second of two detectors was at work."""
    shutil.rmtree(trained / "checkpoints" / "b")
    results = json.loads((trained / "results.json").read_text())
    del results["categories"]["b"]
    results["missing"] = ["b"]
    results["seconds"] = {"features": 10.0, "train": 100.0, "score": 10.0}
    (trained / "results.json").write_text(json.dumps(results))
    line = {"detector": "b", "phase": "all", "step": 300, "steps": 1000, "loss": 0.25}
    rates = {"steps_per_second": 5.0, "images_per_second": 40.0}
    log(
        trained,
        {"cost": {}},
        {**line, "step": 250},
        {**line, **rates},
        half='{"detector": "b", "ph',
    )
    return trained


def test_a_run_that_has_ended(trained_once: Path) -> None:
    before = files(trained_once)
    first, *rest = status(trained_once).splitlines()
    assert first == f"{trained_once}: outside.tiny on mvtec_ad: finished"
    results = json.loads((trained_once / "results.json").read_text())["categories"]
    assert rest == [
        f"  {name}: trained, image_auroc {results[name]['image_auroc']:.4f}, "
        f"pixel_auroc {results[name]['pixel_auroc']:.4f}, "
        f"aupro_0.30 {results[name]['aupro_0.30']:.4f}"
        for name in ("a", "b")
    ]
    assert files(trained_once) == before


def test_a_run_that_was_killed(killed: Path) -> None:
    first, done, left, last, total = status(killed).splitlines()
    assert first.endswith("stopped: the same command goes on")
    assert done.startswith("  a: trained, image_auroc")
    assert left == "  left: b"
    assert last.startswith(
        "last: b/all, step 300 of 1000, loss 0.25, 5.0 steps/s, 40.0 images/s (written 0:0"
    )
    assert total == "1 detectors left, about 2:00 at 2:00 for each of those that are done"
    lock(killed, host=socket.gethostname())  # which nobody holds
    assert "stopped" in status(killed)
    for name in ("0-0", "0-100", "0-250", "other"):
        (killed / "training" / "b" / name).mkdir(parents=True)
    assert "ago); goes on after step 250 of phase 1" in status(killed)
    (killed / "checkpoints" / ".saving-0" / "new").mkdir(parents=True)  # killed in a save
    (killed / "checkpoints" / "b").mkdir()  # without its list: not written to the end
    assert "  left: b" in status(killed).splitlines()


def test_a_run_that_goes_on(killed: Path) -> None:
    with locked(killed):
        first, _, _, now, _ = status(killed).splitlines()
    assert first.endswith(f"running, process {os.getpid()} on {socket.gethostname()}")
    assert now.startswith("now: b/all, step 300 of 1000")
    assert "2:20 left in this phase" in now


def test_a_run_that_has_just_begun(killed: Path) -> None:
    shutil.rmtree(killed / "checkpoints")
    for name in ("results.json", "train.jsonl"):
        (killed / name).unlink()
    lock(killed)
    first, left = status(killed).splitlines()
    assert first.endswith("running, process 7 on elsewhere")
    assert left == "  left: a, b"


def test_replicates_and_one_for_all(parts: Path, tmp_path: Path) -> None:
    config = configured(parts, data__one_for_all=True, train__replicates=2)
    train(config, tmp_path)
    first, *rest = status(tmp_path).splitlines()
    assert first.endswith("finished")
    assert [line.split(",")[0] for line in rest] == [
        *("first replicate:", "  a: trained", "  b: trained"),
        *("replicates/1:", "  a: trained", "  b: trained"),
    ]
    shutil.rmtree(tmp_path / "replicates")
    text = status(tmp_path)
    assert "stopped" in text
    assert text.splitlines()[-2:] == ["replicates/1:", "  left: all"] or "  left: all" in text


@pytest.mark.parametrize("place", ["", "none", "file", "x" * 300, "foreign", "damaged"])
def test_a_folder_that_is_no_run_s(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    for name, text in (("foreign", "[]"), ("damaged", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    assert main(["status", str(tmp_path / place)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxad: ")
    assert main(["status"]) == 2
    assert main(["status", "w", "more"]) == 2


HOSTILE: dict[str, Any] = {
    "results.json": [
        "{",
        "[]",
        '{"categories": 3}',
        '{"categories": {"a": {"image_auroc": "x"}}}',
        '{"seconds": {"a": 1e400}}',
    ],
    "data.json": [
        "{",
        '{"n_train": [1]}',
        '{"n_train": {"\\u001b[31m": 1}}',
        '{"n_train": {"../x": 1}}',
    ],
    "train.jsonl": [
        '{"step": 1, "steps": 0}',
        '{"step": -1, "steps": 5}',
        '{"step": true, "steps": 5}',
        '{"step": 1, "steps": 5, "loss": "x", "steps_per_second": 0, "detector": "\\u001b[2J"}',
        '{"step": 1, "steps": 5, "steps_per_second": -1}',
        "[" * 10**5,
        "\x00" * 100,
    ],
    "jaxad.lock": [
        "{",
        "[]",
        '{"pid": "1"}',
        '{"pid": -1, "host": "x"}',
        '{"pid": 1e9, "host": 3}',
    ],
    "config.json": [
        '{"config": {}}',
        '{"config": {"train": 3, "method": {"name": [1]}}}',
        '{"config": {"train": {"replicates": 1000000000}, "method": {"name": "\\u001b]0;x"}}}',
    ],
}


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in HOSTILE.items() for text in texts]
)
def test_files_of_strangers(name: str, text: str, killed: Path) -> None:
    lock(killed)
    (killed / name).write_text(text)
    told = status(killed)
    assert told.replace("\n", "").isprintable()
    assert len(told) < 100_000


def test_links_and_pipes_of_strangers(killed: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "secret").mkdir(parents=True)
    (outside / "secret" / "jaxad.json").write_text("{}")
    shutil.rmtree(killed / "checkpoints")
    (killed / "checkpoints").symlink_to(outside)
    (killed / "train.jsonl").unlink()
    os.mkfifo(killed / "train.jsonl")
    assert "secret" not in status(killed)
    (killed / "config.json").unlink()
    (killed / "config.json").symlink_to(outside / "config.json")
    (outside / "config.json").write_text('{"config": {}}')
    with pytest.raises(InputError, match=r"leads out of|no work directory"):
        status(killed)


def test_the_last_line_of_a_long_log_is_found(killed: Path) -> None:
    line = {"detector": "b", "phase": "all", "steps": 10**6, "loss": 0.5, "text": "x" * 1000}
    log(killed, *({**line, "step": n + 1} for n in range(2000)))
    assert "step 2000 of 1000000" in status(killed)


def test_it_answers_without_jax(killed: Path) -> None:
    script = (
        "import sys; from jaxad.main import main; "
        f"assert main(['status', {str(killed)!r}]) == 0; "
        "print({'jax', 'flax', 'orbax'} & set(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines()[-1] == "set()"
