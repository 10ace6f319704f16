"""What keeps photos goes the whole way: resumed, calibrated, exported, asked, updated.

One tiny run of each serves all steps. What each method learns is tested elsewhere.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from configuring import configured
from test_resume import stopping_after

import jaxad.export
from jaxad.config import load_file
from jaxad.data.synthetic import write_dataset
from jaxad.errors import Stopped
from jaxad.main import main
from jaxad.runs.calibrate import calibrate
from jaxad.runs.train import train
from jaxad.runs.workdir import load
from jaxad.scorer import make_scorer

SIZE, BATCHES = (32, 32), (1, 3)
PHOTOS = 28
"""To train on; half of them calibrate."""


class Run(NamedTuple):
    """A tiny run of one configuration."""

    config: str
    method: dict[str, Any]
    steps: tuple[int, ...] = ()
    """Of its phases."""
    rtol: float = 4e-7
    """Between the exported program's scores and the scorer's, of batches that differ."""


LAYER = {"backbone": "resnet18", "levels": ("layer1",)}
RUNS = {
    "patchcore": Run(
        "patchcore:resnet18", {**LAYER, "embedding": 8, "projection": 0, "reweighting": 3}
    ),
    "anomaly_dino": Run("anomaly_dino", {**LAYER, "foreground": 1.0, "share": 0.5}),
    "padim": Run("padim", {**LAYER, "dimensions": 6}),
    "spade": Run("spade:resnet18", {**LAYER, "pooled": "layer1"}),
    "nearest": Run("nearest", {"backbone": "resnet18", "levels": (), "pooled": "layer1"}),
    "afrad": Run(  # with steps, and a gallery beside
        "afrad_fast:cifar10-01234",
        {"backbone": "resnet18", "levels": ("layer1", "layer2"), "mirror": False}
        | {"width": (8, 8), "decoder_width": 8, "neighbours": 2},
        steps=(4,),
        rtol=1e-5,  # differences of features that are close by now
    ),
}
"""By name. Left out, as each takes half a minute or there are tests of its own: the others that
learn by steps, and experts with banks."""
BANKS = ("patchcore", "anomaly_dino")
"""What `jaxad update` changes."""


def config_of(name: str, root: Path) -> Any:
    run = RUNS[name]
    config, base = load_file(run.config), configured(root)
    for section in ("data", "train", "score", "report"):
        config[section] = base[section]
    config.data.image_size, config.data.calibration = SIZE, 0.5
    config.method.random_weights = True
    config.method.update(run.method)
    if run.steps:
        config.train.steps = run.steps
    return config


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A category to learn, and `new`, whose photos come later."""
    root = tmp_path_factory.mktemp("photos")
    for to, count, seed in ((root / "parts", PHOTOS, 0), (root / "new", 2, 5)):
        write_dataset(
            *(to,), categories=("a",), n_train=count, n_test_good=2, n_test_bad=2,
            size=SIZE, seed=seed,
        )  # fmt: skip
    return root


@pytest.mark.parametrize("name", RUNS)
def test_it_goes_the_whole_way(name: str, root: Path, tmp_path: Path) -> None:
    workdir, config = tmp_path / "w", config_of(name, root / "parts")
    with pytest.raises(Stopped):
        train(config, workdir, check=stopping_after(3))
    assert not (workdir / "results.json").exists()
    train(config, workdir)
    assert json.loads((workdir / "results.json").read_text())["categories"].keys() == {"a"}

    (limits,) = calibrate(workdir, false_alarm=0.2, confidence=0.0).values()
    assert limits.false_alarm == 0.2
    model = tmp_path / "a.jaxad"
    assert main(["export", f"--workdir={workdir}", "--detector=a", f"--out={model}"]) == 0
    detector, variables, _ = load(workdir, "a")
    score = make_scorer(detector, variables, batch_size=max(BATCHES), size=SIZE).score
    images = np.random.default_rng(0).integers(0, 256, (max(BATCHES), *SIZE, 3), np.uint8)
    exported = jaxad.export.load(model)
    for count in BATCHES:
        want, found = jax.device_get(score(images[:count])), exported.score(images[:count])
        spread = float(np.ptp(want.map))
        for own, others in zip(found, want, strict=True):
            assert np.isfinite(own).all()
            # A map that is one number for each photo has no spread within it: a few last bits.
            np.testing.assert_allclose(own, others, rtol=RUNS[name].rtol, atol=1e-6 * spread)

    out = tmp_path / "out"
    predicted = ["predict", "--model", str(model), str(root / "parts/a/test"), f"--out={out}"]
    assert main(predicted) == 0
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert {row["decision"] for row in rows} <= {"good", "anomalous"}
    for row in rows:
        right = float(row["score"]) > float(row["threshold"])
        assert right == (row["decision"] == "anomalous")

    code = main(["update", f"--workdir={workdir}", f"--add={root / 'new/a/train/good'}"])
    assert code == (0 if name in BANKS else 2)
