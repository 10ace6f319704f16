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
from jaxad.training.sampling import in_turn, split
from jaxad.training.subclasses import Subclasses, clustered, labelled, one_for_all

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


def test_labels_are_subclasses_within_their_category() -> None:
    from jaxad.data.manifest import Record

    def record(category: str, subclass: str) -> Record:
        return Record("x.png", category, subclass, "train", "good")

    found = labelled([record("a", "2"), record("a", "1"), record("a", "2")])
    assert found is not None
    assert found.names == ("1", "2")
    assert found.of.tolist() == [1, 0, 1]
    assert [list(m) for m in found.members] == [[1], [0, 2]]
    both = labelled([record("a", "1"), record("b", "1"), record("b", "1")])
    assert both is not None
    assert both.names == ("a/1", "b/1")
    kinds = labelled([record("a", ""), record("b", "")])
    assert kinds is not None
    assert kinds.names == ("a", "b")
    assert labelled([record("a", ""), record("a", "")]) is None
    assert labelled([record("a", "1"), record("a", "1")]) is None
    with pytest.raises(InputError, match="1 of 2 training images have no subclass"):
        labelled([record("a", "1"), record("a", "")])


def test_the_silhouette_finds_how_many_clusters_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rng = np.random.default_rng(0)
    centres = 5 * rng.normal(size=(4, 12))
    truth = rng.integers(0, 4, 60)
    x = centres[truth] + 0.1 * rng.normal(size=(60, 12))
    found = clustered(x.astype(np.float32), count=0, seed=0)
    assert len(found.names) == 4
    assert len({(a, b) for a, b in zip(truth, found.of)}) == 4  # the same partition
    assert "4 (silhouette" in capsys.readouterr().err
    again = clustered(x.astype(np.float32), count=0, seed=0)
    np.testing.assert_array_equal(found.of, again.of)
    assert len(clustered(x, count=2, seed=0).names) == 2
    with pytest.raises(InputError, match="2 training images can not make 2 subclasses"):
        clustered(x[:2], count=0, seed=0)
    # Images that are all the same are one subclass, not two of which one is empty.
    same = clustered(np.ones((5, 3)), count=0, seed=0)
    assert (same.names, same.of.tolist()) == (("cluster0",), [0] * 5)


def test_no_subclass_is_held_out_whole() -> None:
    options = {"holdout": 0.9, "balanced": False, "seed": 0}
    held, groups = split(Subclasses(("a", "b"), np.asarray([0, 1, 0, 0])), [""] * 4, **options)
    assert [len(part) for group in groups for part in group] == [1, 1]
    assert sorted([*held, *np.concatenate([*groups[0], *groups[1]])]) == [0, 1, 2, 3]
    held, groups = split(one_for_all(10), [""] * 10, **options)
    assert (len(held), len(groups[0][0])) == (9, 1)


def test_arrays_are_taken_in_turn() -> None:
    together = in_turn([np.asarray([0, 2, 4]), np.asarray([1, 3, 5])])
    assert together.tolist() == [0, 1, 2, 3, 4, 5]
