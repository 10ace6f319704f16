"""Experts of other recipes as a job: trained, kept, evaluated, exported, and what is bad input."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from configuring import configured, stopping_after

import jaxad.export
from jaxad.config import default_config
from jaxad.core import InputError
from jaxad.errors import Stopped
from jaxad.main import main
from jaxad.runs.evaluate import evaluate
from jaxad.runs.train import train
from jaxad.runs.workdir import load

TIMES = ("seconds", "images_per_second")
EXPERTS = ("outside.tiny", "outside.bank")


def run_of(root: Path, expert: str, **changes: Any) -> Any:
    """The two categories of `parts` are the subclasses of one detector."""
    config = default_config(f"adapted_moe:{expert}")
    base = configured(root)
    for section in ("data", "train", "score", "report"):
        config[section] = base[section]
    config.data.one_for_all = True
    config.method.router_width = 4
    config.train.steps = (3, 4) if expert == "outside.tiny" else (3,)
    for name, value in changes.items():
        config.update_from_flattened_dict({name.replace("__", "."): value})
    return config


def without_times(results: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in results.items() if key not in TIMES}


@pytest.fixture(scope="module", params=EXPERTS)
def run(
    request: pytest.FixtureRequest, parts: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, dict[str, Any]]:
    workdir = tmp_path_factory.mktemp("runs") / "w"
    config = run_of(parts, request.param, method__adapt_training=True, train__holdout=0.3)
    return request.param, workdir, train(config, workdir)


def test_experts_come_back_from_disk_and_from_an_exported_file(
    run: tuple[str, Path, dict[str, Any]], tmp_path: Path
) -> None:
    expert, workdir, results = run
    assert without_times(evaluate(workdir)) == without_times(results)
    detector, variables, _ = load(workdir)
    own = variables["method"]
    if expert == "outside.bank":
        assert sorted(own["bank"]) == ["0", "1"]
        assert len(own["bank"]["1"]["members"]) == 3 * 48 // 10  # two photos are held out
    else:
        assert own["params"]["mean"].shape == (2, 1, 4)
        assert np.ptp(own["params"]["mean"], axis=0).max() > 0
    assert own["subclasses"]["backbone.level"]["scale"].shape == (2, 4)
    assert min(own["normal"]["scale"]) > 0
    told = [json.loads(line) for line in (workdir / "train.jsonl").read_text().splitlines()]
    assert any("holdout_routed_right" in line for line in told)
    model = tmp_path / "m.jaxad"
    assert main(["export", f"--workdir={workdir}", f"--out={model}"]) == 0
    images = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), np.uint8)
    for count in (1, 3):
        want = jax.jit(detector.score)(variables, images[:count])
        found = jaxad.export.load(model).score(images[:count])
        np.testing.assert_allclose(found.map, want.map, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.image, want.image, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("expert", "calls"), [("outside.tiny", 6), ("outside.bank", 5)])
def test_a_stopped_run_comes_to_the_same_end(
    expert: str, calls: int, parts: Path, tmp_path: Path
) -> None:
    want = train(run_of(parts, expert), tmp_path / "whole")
    with pytest.raises(Stopped):
        train(run_of(parts, expert), tmp_path / "w", check=stopping_after(calls))
    found = train(run_of(parts, expert), tmp_path / "w")
    assert found["categories"] == want["categories"]


def test_subclasses_of_one_and_two_photos_and_those_of_the_test_alone(
    parts: Path, tmp_path: Path
) -> None:
    """Labels that training never saw are judged by the nearest expert."""
    root = Path(shutil.copytree(parts, tmp_path / "parts"))
    photos = sorted((root / "a" / "train" / "good").iterdir())[:3]
    tests = sorted((root / "b" / "test").rglob("*.png"))
    rows = [(path, kind, "train", "good") for path, kind in zip(photos, "xyy", strict=True)]
    rows += [(path, "z", "test", path.parent.name) for path in tests]
    with (root / "manifest.csv").open("w", newline="") as file:
        write = csv.writer(file).writerow
        write(("path", "category", "subclass", "split", "label", "mask"))
        for path, kind, split, label in rows:
            write((path.relative_to(root).as_posix(), "c", kind, split, label, ""))
    for expert in EXPERTS:
        config = run_of(parts, expert, data__layout="manifest", data__root=str(root))
        config.data.one_for_all = False
        results = train(config, tmp_path / expert)
        assert 0 <= results["mean"]["image_auroc"] <= 1
        assert json.loads((tmp_path / expert / "subclasses.json").read_text()) == {"c": ["x", "y"]}
        variables = load(tmp_path / expert)[1]
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables["method"]))


def test_a_method_that_learns_subclasses_is_refused_as_an_expert(
    parts: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "c.py"
    file.write_text(
        "from jaxad.config import default_config\n"
        "def get_config():\n    return default_config('adapted_moe:adapted_moe')\n"
    )
    capsys.readouterr()
    assert main(["train", f"--config={file}", f"--workdir={tmp_path / 'w'}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "can not be an expert" in line
    with pytest.raises(InputError, match=r"method\.top_k is 5: there are 2 experts"):
        train(run_of(parts, "outside.tiny", method__top_k=5), tmp_path / "w")
    assert not (tmp_path / "w").exists()
