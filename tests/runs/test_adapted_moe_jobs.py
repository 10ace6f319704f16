"""Adapted-MoE as a job: experts for labelled subclasses or found ones, and what comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxad.config import load_file
from jaxad.core import InputError
from jaxad.data.synthetic import write_dataset
from jaxad.recipes.build import build_backbones, models
from jaxad.runs.evaluate import evaluate
from jaxad.runs.train import train
from jaxad.runs.workdir import load

ROOT = Path(__file__).parents[2]
TIMES = ("seconds", "images_per_second")


@pytest.fixture(scope="module")
def cloths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "textures"
    write_dataset(
        root,
        layout="texture_ad",
        categories=("cloth",),
        subclasses=("1", "2", "3"),
        n_train=4,
        n_test_good=2,
        n_test_bad=2,
        size=(48, 48),
    )
    return root


def small(root: Path) -> Any:
    config = load_file(f"{ROOT / 'configs' / 'adapted_moe.py'}:cloth")
    config.data.root, config.data.image_size = str(root), (32, 32)
    config.data.train_subclasses, config.data.test_subclasses = "1,2", "3"
    m = config.method
    m.backbone, m.random_weights, m.embedding, m.hidden = "resnet18", True, 16, 8
    m.levels = ("layer1",)
    m.router_width, m.top_k = 8, 2
    config.train.steps, config.train.positions = (3, 4), (20,)
    config.train.batch_size = config.score.batch_size = 4
    return config


def without_times(results: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in results.items() if key not in TIMES}


def lines(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "train.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(cloths: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    workdir = tmp_path_factory.mktemp("runs") / "w"
    config = small(cloths)
    config.train.holdout = 0.25
    return workdir, train(config, workdir)


def test_one_expert_a_subclass_comes_back_from_disk(run: tuple[Path, dict[str, Any]]) -> None:
    workdir, results = run
    assert list(results["categories"]) == ["cloth-3"]
    assert json.loads((workdir / "subclasses.json").read_text()) == {"cloth": ["1", "2"]}
    assert without_times(evaluate(workdir)) == without_times(results)
    detector, variables, _ = load(workdir)
    trained = variables["method"]
    assert {len(leaf) for leaf in jax.tree.leaves(trained["params"]["experts"])} == {2}
    assert trained["routing"]["centres"].shape == (2, 8)
    assert float(np.linalg.norm(trained["routing"]["centres"], axis=1).min()) > 0  # they moved
    assert float(trained["patches"]["std"].min()) >= 0
    assert detector.score(variables, np.zeros((1, 32, 32, 3), np.uint8)).map.shape == (1, 32, 32)


@pytest.mark.parametrize(("place", "axes"), [("device", "positions"), ("off", "channels")])
def test_experts_that_learn_calibrated_images_come_back_from_disk(
    place: str, axes: str, cloths: Path, tmp_path: Path
) -> None:
    config = small(cloths)
    m = config.method
    m.adapt_training, m.statistics, m.share, m.shared, m.axes = True, "quartiles", 0.5, True, axes
    config.train.feature_cache = place
    results = train(config, tmp_path / "w")
    assert without_times(evaluate(tmp_path / "w")) == without_times(results)
    trained = load(tmp_path / "w")[1]["method"]
    assert {len(leaf) for leaf in jax.tree.leaves(trained["params"]["experts"])} == {1}
    assert trained["patches"]["std"].shape == (2, 16 if axes == "positions" else 1)
    assert float(np.ptp(trained["patches"]["mean"], axis=0).max()) > 0


def test_routing_of_held_out_images_is_told(run: tuple[Path, dict[str, Any]]) -> None:
    told = [line for line in lines(run[0]) if "holdout" in line]
    assert [line["phase"] for line in told] == ["router", "experts"]
    assert 0 <= told[0]["holdout_routed_right"] <= 1
    last = [line for line in lines(run[0]) if line.get("phase") == "router" and "step" in line]
    assert 0 <= last[-1]["routed_right"] <= 1


def test_a_damaged_list_of_subclasses_is_named(
    run: tuple[Path, dict[str, Any]],
) -> None:
    path = run[0] / "subclasses.json"
    before = path.read_text()
    path.write_text('{"cloth": [1]}')
    with pytest.raises(InputError, match=r"subclasses\.json is damaged"):
        load(run[0])
    path.write_text('{"cloth": ["1"]}')  # one expert less than the checkpoint has
    with pytest.raises(InputError, match="checkpoint"):
        load(run[0])
    path.write_text(before)


def test_without_labels_clusters_are_experts_and_images_train_uncached(
    cloths: Path, tmp_path: Path
) -> None:
    config = small(cloths)
    config.method.clusters = 3
    config.train.feature_cache = "off"
    train(config, tmp_path / "w")
    names = json.loads((tmp_path / "w" / "subclasses.json").read_text())
    assert names == {"cloth": ["cluster0", "cluster1", "cluster2"]}
    assert load(tmp_path / "w")[1]["method"]["routing"]["centres"].shape[0] == 3


def test_one_expert_alone_has_no_router(cloths: Path) -> None:
    config = small(cloths)
    config.method.moe = False
    backbones = build_backbones(config)
    detector = models(config, backbones)(0).detector
    shapes = jax.eval_shape(
        lambda rng: detector.init(rng, backbones.variables, size=(32, 32)), jax.random.key(0)
    )
    assert "routing" not in shapes["method"]
