"""Kills are planned, aimed and judged; memory and the cost of saving are measured."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import soak_kills
from benchmarks.soak import main
from benchmarks.soak_kills import Kill, differences, missing, moment, plan
from benchmarks.soak_memory import Sample, draw, growth, resident
from benchmarks.soak_predict import write_photos
from benchmarks.soak_runs import SUBJECTS, command, small_config
from jaxad.core import InputError
from jaxad.runs import checkpoint


def kill(hit: str) -> Kill:
    return Kill("mb_pfm", 1, "any", hit, 1.0, -9, ())


def test_kills_are_shared_out() -> None:
    aims = plan(30, list(SUBJECTS))
    every = [aim for part in aims.values() for aim in part]
    assert len(every) == 30
    assert {aim: every.count(aim) for aim in set(every)} == {
        "save": 10,
        "evaluation": 10,
        "any": 10,
    }
    assert all(len(set(part)) == 3 for part in aims.values())
    assert missing([kill("save")] * 5 + [kill("evaluation")] * 3, 5) == ["evaluation"] * 2


def test_every_subject_is_a_configuration(tmp_path: Path) -> None:
    data = {"mvtec_ad": tmp_path, "texture_ad": tmp_path}
    for name, subject in SUBJECTS.items():
        assert small_config(name, data).method.name in name
        arguments = command(subject, data, tmp_path / "w")
        assert arguments[1:6] == ["-m", "jaxad", "train", "--workdir", str(tmp_path / "w")]


@pytest.fixture
def ended(tmp_path: Path) -> Path:
    """What a run of two detectors leaves."""
    workdir = tmp_path / "w"
    for name in ("a", "b"):
        checkpoint.save(workdir / "checkpoints" / name, {"x": np.arange(3.0)})
    (workdir / "report").mkdir()
    (workdir / "report" / "index.html").write_text("<h2>a</h2><h2>b</h2>")
    results = {"categories": {"a": {"auroc": 0.5}, "b": {"auroc": 1.0}}, "seconds": {"train": 1}}
    (workdir / "results.json").write_text(json.dumps(results))
    config = {"config": {"data": {"one_for_all": False}}}
    (workdir / "config.json").write_text(json.dumps(config))
    lines = [{"cost": {}}, {"detector": "a", "step": 1, "loss": 0.25, "memory": 3}]
    (workdir / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return workdir


def test_what_a_run_was_at_is_seen_in_its_folder(ended: Path, tmp_path: Path) -> None:
    assert moment(tmp_path / "nothing") == "start"
    assert moment(ended) == "training"
    (ended / "report" / "index.html").write_text("<h2>a</h2>")
    assert moment(ended) == "evaluation"
    (ended / "training" / ".saving-1" / "0-2").mkdir(parents=True)  # deleted, not saved
    assert moment(ended) == "evaluation"
    (ended / "training" / "b" / ".saving-1" / "new").mkdir(parents=True)
    assert moment(ended) == "save"


def test_every_difference_is_seen(ended: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(ended, tmp_path / "whole"))
    results = json.loads((ended / "results.json").read_text())
    (ended / "results.json").write_text(json.dumps({**results, "seconds": {"train": 9}}))
    assert differences(ended, whole) == []
    (ended / "train.jsonl").write_text((ended / "train.jsonl").read_text().replace("25", "26"))
    (ended / ".jaxad-1.tmp").write_text("")
    (ended / "report" / "index.html").unlink()
    results["categories"]["b"]["auroc"] = 0.9
    (ended / "results.json").write_text(json.dumps(results))
    other = {"x": np.nextafter(np.arange(3.0), 9)}
    checkpoint.save(ended / "checkpoints" / "b", other)
    assert differences(ended, whole) == [
        ".jaxad-1.tmp is there",
        "report/index.html is not there",
        "results.json differs",
        "train.jsonl differs",
        "the arrays of b differ",
    ]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at processes by /proc")
def test_processes_that_stay_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak_kills, "LEAVE", 0.2)
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True
    )
    assert len(soak_kills._left(process.pid, soak_kills._shared_memory())) == 1
    assert resident(process.pid) > 1
    process.kill()
    process.wait()
    assert soak_kills._left(process.pid, soak_kills._shared_memory()) == []
    assert resident(process.pid) == 0


def test_growth_is_over_what_there_is_after_the_warm_up() -> None:
    flat = [Sample(n, 100.0 if n > 5 else 900.0) for n in range(1, 101)]
    assert growth(flat) == 0
    leak = [Sample(n, 100.0 + n) for n in range(1, 101)]
    assert growth(leak) == pytest.approx(200 / 115.5 - 1)
    image = draw({"steps": flat, "images scored": leak}, "cpu")
    assert isinstance(image, Image.Image)
    assert len(image.getcolors(1 << 20) or ()) > 10
    with pytest.raises(InputError, match="too few samples"):
        growth(flat[:1])


def test_a_run_that_is_killed_comes_to_the_same_end(tmp_path: Path, capsys: Any) -> None:
    """The whole program, with two kills."""
    out = tmp_path / "out.json"
    assert main(["kills", "--quick", "--only", "simplenet", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert (found["signal"], found["wrong"]) == ("SIGKILL", [])
    assert [row["subject"] for row in found["rows"]] == ["simplenet"] * len(found["rows"])
    assert "all as if undisturbed" in capsys.readouterr().out


def test_memory_is_measured(tmp_path: Path, capsys: Any) -> None:
    out, plot = tmp_path / "out.json", tmp_path / "memory.png"
    assert main(["memory", "--quick", "--plot", str(plot), "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert set(found["growth"]) == {"steps", "images scored"}
    assert found["samples"]["images scored"][-1][0] == 5000
    assert Image.open(plot).size[1] == 500
    assert "images scored" in capsys.readouterr().out


def test_the_cost_of_saving_is_measured(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out.json"
    assert main(["saving", "--quick", "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert row["saves"] == 2  # after the first block, and 30 steps later
    each = [b - a for a, b in zip(row["seconds"]["without"], row["seconds"]["with"], strict=True)]
    assert row["seconds_a_save"]["pairs"] == pytest.approx(each[0] / 2)
    assert 0 < row["seconds_a_save"]["whole"] < 300 * row["share"]["dearest"] + 1e-9
    assert "share at the default interval" in capsys.readouterr().out


def test_photos_of_a_long_job(tmp_path: Path) -> None:
    folder = write_photos(tmp_path, 2000)
    photos = sorted(folder.rglob("*.png"))
    assert len(photos) == 2000
    assert len(list(folder.iterdir())) == 1
    sizes = [photo.stat().st_size for photo in photos]
    assert sizes.count(200) == 2
    assert len({photo.stat().st_ino for photo in photos}) > 300
