"""A run that was stopped goes on by the same command, to the same end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from configuring import configured, stopping_after
from conftest import HERE, ROOT, files, untimed

from jaxad.core import InputError
from jaxad.errors import Stopped
from jaxad.main import main
from jaxad.runs import checkpoint, lock, record
from jaxad.runs.evaluate import evaluate
from jaxad.runs.train import train
from jaxad.runs.workdir import load

TIMES = ("seconds", "images_per_second")


def run_of(root: Path, **changes: Any) -> Any:
    """Two categories, two seeds, a save after every second step."""
    return configured(
        root,
        **{
            "train__epochs": 3,
            "train__replicates": 2,
            "train__log_every": 1,
            "checkpoint__every_steps": 2,
            **changes,
        },
    )


def end_of(workdir: Path) -> dict[str, Any]:
    """All that a run has come to, without its times."""
    found: dict[str, Any] = {}
    for folder in (workdir, workdir / "replicates" / "1"):
        results = json.loads((folder / "results.json").read_text())
        found[f"{folder.name} results"] = {k: v for k, v in results.items() if k not in TIMES}
        found[f"{folder.name} log"] = untimed(folder / "train.jsonl")
        for name in ("a", "b"):
            _, variables, _ = load(folder, name)
            found[f"{folder.name} {name}"] = jax.tree.map(
                lambda leaf: np.asarray(leaf).tobytes(), variables["method"]
            )
        listed = json.loads((folder / "jaxad.json").read_text())["wrote"]
        found[f"{folder.name} files"] = sorted(listed)
    found["names"] = sorted(name for name in files(workdir) if "checkpoints" not in name)
    return found


@pytest.fixture(scope="module")
def undisturbed(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed") / "w"
    train(run_of(parts), workdir)
    return workdir


@pytest.mark.parametrize("calls", [0, 1, 3, 4, 7, 11])
def test_stopped_again_and_again_it_comes_to_the_same_end(
    calls: int, parts: Path, undisturbed: Path, tmp_path: Path
) -> None:
    stops = 0
    while True:
        stops += 1
        # The first few calls of a start are those of passing over what is done.
        check = stopping_after(calls if stops % 2 else calls + 7)
        try:
            train(run_of(parts), tmp_path / "w", check=check)
            break
        except Stopped:
            assert not (tmp_path / "w" / lock.NAME).exists()
            assert stops < 60
            if (tmp_path / "w" / record.NAME).exists():  # as a kill may leave
                (tmp_path / "w" / ".jaxad-0123456789abcdef.tmp").write_text("half")
        if calls < 3 and stops > 2:  # would never get any further
            train(run_of(parts), tmp_path / "w")
            break
    assert stops > 1
    assert end_of(tmp_path / "w") == end_of(undisturbed)


def test_features_that_are_kept_are_not_computed_again(
    parts: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_of(parts, checkpoint__features=True)
    with pytest.raises(Stopped):
        train(config, tmp_path / "w", check=stopping_after(5))
    kept = list((tmp_path / "w" / "training" / "a" / "features").glob("*.npy"))
    assert len(kept) == 1
    assert "a features" in capsys.readouterr().err
    for damaged in (False, True):
        if damaged:
            with kept[0].open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"\xff")
        with pytest.raises(Stopped):
            train(config, tmp_path / "w", check=stopping_after(2))
        said = capsys.readouterr().err
        assert ("a features" in said) == damaged
        assert ("can not be used" in said) == damaged
    train(config, tmp_path / "w")
    want = end_of(undisturbed)
    assert end_of(tmp_path / "w") == want


def test_features_are_kept_where_they_were(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Though there is less memory now: in another place sums are rounded otherwise."""
    config = interrupted(parts, tmp_path / "w")
    assert config.train.feature_cache == "auto"
    monkeypatch.setattr("jaxad.training.fit.free_memory", lambda: 0)
    capsys.readouterr()
    train(config, tmp_path / "w")
    assert "a features" in capsys.readouterr().err
    train(config, tmp_path / "other")
    assert "a features" not in capsys.readouterr().err
    kept = [json.loads((tmp_path / w / "config.json").read_text()) for w in ("w", "other")]
    assert [one["feature_cache"] for one in kept] == ["host", "off"]


def interrupted(root: Path, workdir: Path, calls: int = 7) -> Any:
    """A run that was stopped while its first detector is trained."""
    config = run_of(root, train__replicates=1)
    with pytest.raises(Stopped):
        train(config, workdir, check=stopping_after(calls))
    assert (workdir / "training" / "a").is_dir()
    return config


def test_another_run_is_refused_and_what_differs_is_named(parts: Path, tmp_path: Path) -> None:
    interrupted(parts, tmp_path / "w")
    before = files(tmp_path / "w")
    other = run_of(parts, train__replicates=1, train__epochs=4, method__channels=5)
    with pytest.raises(InputError) as refused:
        train(other, tmp_path / "w")
    assert "method.channels=4 there and 5 now; train.epochs=3 there and 4 now" in str(refused.value)
    assert "or add --overwrite" in str(refused.value)
    assert files(tmp_path / "w") == before
    train(other, tmp_path / "w", overwrite=True)
    assert not (tmp_path / "w" / "training").exists()


def test_what_decides_nothing_may_change(parts: Path, tmp_path: Path) -> None:
    interrupted(parts, tmp_path / "w")
    moved = Path(shutil.copytree(parts, tmp_path / "moved"))
    changed = run_of(
        moved,
        train__replicates=1,
        train__log_every=2,
        checkpoint__every_steps=5,
        checkpoint__keep=1,
        report__examples=2,
    )
    train(changed, tmp_path / "w")
    train(run_of(parts, train__replicates=1), tmp_path / "whole")
    results = [json.loads((tmp_path / w / "results.json").read_text()) for w in ("w", "whole")]
    assert results[0]["categories"] == results[1]["categories"]


def test_other_data_and_other_weights_are_named(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(parts, tmp_path / "parts"))
    config = interrupted(root, tmp_path / "w")
    before = files(tmp_path / "w")
    photos = sorted((root / "a" / "train" / "good").iterdir())
    shutil.copy(photos[0], photos[1])
    with pytest.raises(InputError, match=r"of other data .1 training photos of 'a' changed"):
        train(config, tmp_path / "w")
    shutil.copy(parts / photos[1].relative_to(root), photos[1])
    new = root / "a" / "test" / "good" / "new.png"
    shutil.copy(photos[0], new)
    with pytest.raises(InputError, match=r"1 test photos of 'a' are new.*: jaxad evaluate --work"):
        train(config, tmp_path / "w")
    new.unlink()
    from outside import tiny

    own = tiny.RECIPE.backbones

    def other(config: Any) -> Any:
        return own(config)._replace(sha256={"backbone": "x"})

    monkeypatch.setattr(tiny, "RECIPE", tiny.RECIPE._replace(backbones=other))
    with pytest.raises(InputError, match="other weights of 'backbone': bring those back"):
        train(config, tmp_path / "w")
    assert files(tmp_path / "w") == before


def newest(folder: Path) -> Path:
    kept = [p for p in folder.iterdir() if p.name[0].isdigit()]
    return max(kept, key=lambda p: tuple(map(int, p.name.split("-"))))


@pytest.mark.parametrize("what", ["arrays", "about.json", "jaxad.json", "format", "gone"])
def test_a_damaged_save_is_named_and_the_one_before_is_used(
    what: str, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "w"
    config = interrupted(parts, workdir, calls=7)
    train(run_of(parts, train__replicates=1), tmp_path / "whole")
    last = newest(workdir / "training" / "a")
    (before,) = [path for path in last.parent.iterdir() if path != last]
    if what == "arrays":
        victim = max((p for p in last.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    elif what == "format":
        listed = json.loads((last / "jaxad.json").read_text())
        (last / "jaxad.json").write_text(json.dumps({**listed, "format": 99}))
    elif what == "gone":
        shutil.rmtree(last)
        last.mkdir()
    else:
        (last / what).write_text("{")
    capsys.readouterr()
    train(config, workdir)
    said = capsys.readouterr().err
    if what != "gone":
        assert f"{last} can not be used (" in said
    if what == "format":
        assert "of another jaxad (format 99" in said
    assert f"a: goes on after step {before.name.partition('-')[2]} of phase 1" in said
    results = [json.loads((w / "results.json").read_text()) for w in (workdir, tmp_path / "whole")]
    assert results[0]["categories"] == results[1]["categories"]


def test_where_no_save_is_whole_the_detector_begins_anew(parts: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "w"
    config = interrupted(parts, workdir, calls=7)
    for folder in (workdir / "training" / "a").iterdir():
        (folder / "about.json").write_text("[]")
    train(config, workdir)
    train(config, tmp_path / "whole")
    assert untimed(workdir / "train.jsonl") == untimed(tmp_path / "whole" / "train.jsonl")


def test_a_save_that_can_not_be_written_does_not_end_the_training(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    own = checkpoint.save

    def save(path: Path, variables: Any, about: Any = None) -> None:
        if "training" in path.parts:
            raise InputError("no room")
        own(path, variables, about)

    monkeypatch.setattr(checkpoint, "save", save)
    train(run_of(parts, train__replicates=1), tmp_path / "w")
    assert "no room; training goes on" in capsys.readouterr().err


def test_only_so_many_saves_are_kept(parts: Path, tmp_path: Path) -> None:
    for keep in (1, 3):
        config = run_of(parts, train__replicates=1, train__epochs=9, checkpoint__every_steps=1)
        config.checkpoint.keep = keep
        with pytest.raises(Stopped):
            train(config, tmp_path / str(keep), check=stopping_after(15))
        assert len(list((tmp_path / str(keep) / "training" / "a").iterdir())) == keep


def test_a_run_that_is_finished_says_so(
    undisturbed: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = Path(shutil.copytree(undisturbed, tmp_path / "w"))
    before = files(workdir)
    results = train(run_of(parts), workdir)
    assert "holds this run, finished: nothing is left to do" in capsys.readouterr().err
    assert files(workdir) == before
    assert results == json.loads((workdir / "results.json").read_text())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"categories": {"a": 3, "b": 4}}', None])
def test_damaged_results_are_measured_again(
    text: str | None, undisturbed: Path, parts: Path, tmp_path: Path, capsys: Any
) -> None:
    workdir = Path(shutil.copytree(undisturbed, tmp_path / "w"))
    if text is None:
        (workdir / "results.json").unlink()
    else:
        (workdir / "results.json").write_text(text)
    capsys.readouterr()
    train(run_of(parts), workdir)
    said = capsys.readouterr().err
    assert "a: is trained" in said
    assert "steps in" not in said
    assert end_of(workdir) == end_of(undisturbed)


def test_a_finished_detector_that_is_damaged_is_named(
    undisturbed: Path, parts: Path, tmp_path: Path
) -> None:
    workdir = Path(shutil.copytree(undisturbed, tmp_path / "w"))
    (workdir / "results.json").unlink()
    (workdir / "checkpoints" / "b" / "about.json").write_text("{}")
    with pytest.raises(InputError, match="checkpoints/b is damaged"):
        train(run_of(parts), workdir)


def test_results_of_a_run_under_way_say_what_is_missing(parts: Path, tmp_path: Path) -> None:
    config = run_of(parts, train__replicates=1)
    calls = 0
    while not (tmp_path / "results.json").exists():
        calls += 1
        with pytest.raises(Stopped):
            train(config, tmp_path, check=stopping_after(calls))
    assert json.loads((tmp_path / "results.json").read_text())["missing"] == ["b"]
    found = evaluate(tmp_path)
    assert found["missing"] == ["b"]
    assert "missing" not in train(config, tmp_path)


def test_a_category_that_is_measured_is_not_scored_again(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    want = json.loads((trained / "results.json").read_text())
    scored, calls = set[str](), 0
    while calls < 20:
        calls += 1
        capsys.readouterr()
        try:
            found = evaluate(trained, check=stopping_after(2))
            break
        except Stopped:
            said = capsys.readouterr().err
            new = {name for name in "ab" if f"{name} score: 5/5" in said}
            assert not new & scored
            scored |= new
    assert scored
    assert found["categories"] == want["categories"]
    assert not (trained / "outcomes").exists()


def test_a_damaged_outcome_is_scored_again(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    want = json.loads((trained / "results.json").read_text())
    with pytest.raises(Stopped):
        evaluate(trained, check=stopping_after(3))
    (kept,) = (trained / "outcomes").iterdir()
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    kept.write_bytes(data)
    capsys.readouterr()
    assert evaluate(trained)["categories"] == want["categories"]
    assert "a is scored again" in capsys.readouterr().err


def process(root: Path, workdir: Path, **env: str) -> subprocess.Popen[str]:
    """`jaxad train` with many steps, by its own."""
    config = workdir.parent / "c.py"
    config.write_text(
        "from configuring import configured\n"
        "def get_config():\n"
        f"    return configured({str(root)!r}, train__epochs=20000, train__log_every=1)\n"
    )
    path = os.pathsep.join([str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "jaxad", "train", f"--config={config}", f"--workdir={workdir}"],
        env={**os.environ, "PYTHONPATH": path, "XLA_FLAGS": "", **env},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(ran: subprocess.Popen[str], path: Path, size: int) -> None:
    end = time.monotonic() + 300
    while not path.exists() or path.stat().st_size < size:
        if ran.poll() is not None or time.monotonic() > end:
            ran.kill()
            raise AssertionError(ran.communicate()[1])
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves(number: signal.Signals, parts: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "w"
    ran = process(parts, workdir)
    wait_for(ran, workdir / "train.jsonl", 2000)
    with pytest.raises(InputError, match=f"process {ran.pid} on .* works in"):
        train(configured(parts), workdir)
    with pytest.raises(InputError, match=f"process {ran.pid} on .* works in"):
        evaluate(workdir)
    ran.send_signal(number)
    _, said = ran.communicate(timeout=60)
    assert ran.returncode == 128 + number
    assert said.splitlines()[-1] == "jaxad: stopped; the same command goes on from here"
    assert "Traceback" not in said
    assert sorted(p.name for p in workdir.iterdir()) == [
        *("config.json", "data.json", "jaxad.json", "train.jsonl", "training")
    ]
    step = int(newest(workdir / "training" / "a").name.partition("-")[2])
    lines = (workdir / "train.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == step
    again = process(parts, workdir)
    wait_for(again, workdir / "train.jsonl", (workdir / "train.jsonl").stat().st_size + 500)
    again.send_signal(signal.SIGKILL)
    _, said = again.communicate()
    assert f"a: goes on after step {step} of phase 1" in said
    # A kill may have cut the last line.
    lines = (workdir / "train.jsonl").read_text().split("\n")[:-1]
    numbers = [json.loads(line).get("step") for line in lines]
    assert numbers[2:] == list(range(1, len(numbers) - 1))
    assert main(["evaluate", f"--workdir={workdir}"]) == 2  # no detector yet, and no traceback
