"""RD4AD, UniAD and Dinomaly as jobs: trained, stopped and gone on with, evaluated."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from small_detectors import network
from small_transformer import transformer
from test_resume import stopping_after

import jaxad.export
from jaxad.config import load_file
from jaxad.core import InputError
from jaxad.errors import Stopped
from jaxad.main import main
from jaxad.recipes import dinomaly, rd4ad, uniad
from jaxad.recipes.recipe import Backbones
from jaxad.runs.calibrate import calibrate
from jaxad.runs.evaluate import evaluate
from jaxad.runs.train import train
from jaxad.runs.workdir import load
from jaxad.scorer import make_scorer

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = {"rd4ad": rd4ad, "uniad": uniad, "dinomaly": dinomaly}
SETTINGS = {
    "rd4ad": {"blocks": (1, 1, 1, 1)},
    "uniad": {"width": 8, "heads": 2, "inner": 8, "layers": 1, "stride": 8, "neighbours": 3},
    "dinomaly": {
        "levels": ("block1", "block2"),
        "heads": 2,
        "easy_steps": 2,
        "random_weights": True,
    },
}


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three convolutions are the frozen network, two blocks of a transformer Dinomaly's."""

    def backbones(config: Any) -> Backbones:
        if config.method.name == "dinomaly":
            plain, weights = transformer(("block1", "block2"), registers=1)
            backbone, variables = dinomaly.grouped(plain, weights, groups=2)
        else:
            backbone, variables = network(3, seed=0)
        return Backbones({"backbone": backbone}, {"backbone": variables}, {"backbone": "random:0"})

    for module in RECIPES.values():
        monkeypatch.setattr(module, "RECIPE", module.RECIPE._replace(backbones=backbones))


def small(name: str, root: Path) -> Any:
    setting = {"rd4ad": "resnet18", "uniad": "cpu", "dinomaly": "small"}[name]
    config = load_file(f"{CONFIGS / name}.py:{setting}")
    config.data.root, config.data.image_size = str(root), (32, 32)
    config.data.categories = "a"
    config.data.calibration = 0.5 if name == "dinomaly" else 0.0
    config.data.prepared = "off"
    config.method.update(SETTINGS[name])
    config.train.steps, config.train.batch_size, config.score.batch_size = (4,), 4, 4
    config.checkpoint.every_steps = 1
    return config


@pytest.mark.parametrize("name", ["rd4ad", "uniad"])
def test_a_stopped_run_comes_to_the_same_end(name: str, parts: Path, tmp_path: Path) -> None:
    config = small(name, parts)
    train(config, tmp_path / "whole")
    _, whole, _ = load(tmp_path / "whole", "a")
    with pytest.raises(Stopped):
        train(config, tmp_path / "stopped", check=stopping_after(6))
    assert not (tmp_path / "stopped" / "results.json").exists()
    train(config, tmp_path / "stopped")
    _, again, _ = load(tmp_path / "stopped", "a")
    jax.tree.map(np.testing.assert_array_equal, again, whole)
    before = json.loads((tmp_path / "whole" / "results.json").read_text())
    evaluate(tmp_path / "stopped")
    after = json.loads((tmp_path / "stopped" / "results.json").read_text())
    assert after["mean"] == before["mean"]
    assert after["mean"]["pixel_auroc"] is not None


def test_dinomaly_goes_the_whole_way(parts: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "w"
    train(small("dinomaly", parts), workdir)
    assert json.loads((workdir / "results.json").read_text())["mean"]["pixel_auroc"] is not None
    (limits,) = calibrate(workdir, false_alarm=0.4, confidence=0.0).values()
    assert limits.false_alarm == 0.4
    model, out = tmp_path / "a.jaxad", tmp_path / "out"
    assert main(["export", f"--workdir={workdir}", "--detector=a", f"--out={model}"]) == 0
    detector, variables, _ = load(workdir, "a")
    assert variables["method"]["course"]["step"] == 4
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    want = make_scorer(detector, variables, batch_size=2, size=(32, 32)).score(images)
    for own, other in zip(jaxad.export.load(model).score(images), jax.device_get(want)):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-6)
    photos = str(parts / "a" / "test")
    assert main(["predict", "--model", str(model), photos, f"--out={out}"]) == 0
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        right = float(row["score"]) > float(row["threshold"])
        assert right == (row["decision"] == "anomalous")


def test_unfit_sizes_are_one_line(parts: Path, tmp_path: Path) -> None:
    config = small("rd4ad", parts)
    config.data.image_size = (40, 32)
    with pytest.raises(InputError, match="layer3 have grids of 20 x 16, 10 x 8, 5 x 4"):
        train(config, tmp_path / "w")
    config = small("uniad", parts)
    config.method.neighbours = 7
    with pytest.raises(InputError, match="neighbours is 7, and tokens lie on a grid of 4 x 4"):
        train(config, tmp_path / "w")
