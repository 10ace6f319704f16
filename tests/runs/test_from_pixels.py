"""A method whose own network sees pixels goes through every job."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from configuring import stopping_after

import jaxad
import jaxad.export
from jaxad.backbones import init_backbone
from jaxad.config import check_config, default_config
from jaxad.core import InputError
from jaxad.errors import Stopped
from jaxad.main import main
from jaxad.recipes.recipe import named_key
from jaxad.runs.calibrate import calibrate
from jaxad.runs.train import train
from jaxad.runs.workdir import load


def run_of(parts: Path, **changes: Any) -> Any:
    config = default_config("stfpm")
    config.data.root, config.data.categories = str(parts), "a"
    config.data.image_size, config.data.prepared, config.data.calibration = (32, 32), "off", 0.0
    config.method.random_weights, config.method.levels = True, ("layer1",)
    config.train.epochs, config.train.batch_size, config.score.batch_size = 3, 4, 4
    config.train.holdout, config.train.log_every = 0.2, 2
    config.report.examples = 1
    config.train.update(changes)
    return config


@pytest.fixture(scope="module")
def done(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("trained") / "w"
    train(run_of(parts), workdir)
    return workdir


def arrays(workdir: Path) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(load(workdir, "a")[1]["method"])]


def test_the_log_has_the_loss_of_each_level_and_of_held_out_photos(done: Path) -> None:
    lines = [json.loads(line) for line in (done / "train.jsonl").open()]
    last = lines[-1]
    assert last["loss"] == pytest.approx(last["loss_layer1"])
    assert last["holdout"] > 0
    assert last["learning_rate"] == pytest.approx(0.4)
    config = json.loads((done / "config.json").read_text())
    assert list(config["weights"]) == ["teacher"]


def judges(done: Path, parts: Path, tmp_path: Path) -> None:
    """Calibrate and export a run's detector, and see that both judge photos alike."""
    # More than the two photos of the test, for a threshold.
    photos = tmp_path / "normal"
    photos.mkdir()
    for n, path in enumerate(sorted((parts / "a").rglob("*.png"))):
        (photos / f"{n}.png").write_bytes(path.read_bytes())
    calibrate(done, photos, category="a", false_alarm=0.2)
    model = tmp_path / "a.jaxad"
    assert main(["export", f"--workdir={done}", "--detector=a", f"--out={model}"]) == 0
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    detector, variables, _ = load(done, "a")
    want, found = detector.score(variables, images), jaxad.export.load(model).score(images)
    np.testing.assert_allclose(found.map, want.map, rtol=1e-4)
    scores = []
    for judge in (["--model", str(model)], ["--workdir", str(done), "--category=a"]):
        out = tmp_path / f"out{len(scores)}"
        assert main(["predict", *judge, str(parts / "a" / "test"), f"--out={out}"]) == 0
        with (out / "predictions.csv").open(newline="") as file:
            scores.append([float(row["score"]) for row in csv.DictReader(file)])
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)


def test_it_is_evaluated_exported_calibrated_and_judges(
    done: Path, parts: Path, tmp_path: Path
) -> None:
    before = json.loads((done / "results.json").read_text())["categories"]
    assert main(["evaluate", f"--workdir={done}"]) == 0
    assert json.loads((done / "results.json").read_text())["categories"] == before
    judges(done, parts, tmp_path)


@pytest.mark.parametrize("place", ["device", "off"])
def test_wherever_features_are_the_same_is_learnt(
    place: str, done: Path, parts: Path, tmp_path: Path
) -> None:
    train(run_of(parts, feature_cache=place), tmp_path / "w")
    for own, want in zip(arrays(tmp_path / "w"), arrays(done), strict=True):
        np.testing.assert_allclose(own, want, rtol=1e-4, atol=1e-4)


def test_augmented_and_stopped_it_comes_to_the_same_end(parts: Path, tmp_path: Path) -> None:
    config = run_of(parts, augment=("mirror", "turn", "shift"))
    config.checkpoint.every_steps = 1
    with pytest.raises(Stopped):
        train(config, tmp_path / "w", check=stopping_after(2))
    assert (tmp_path / "w" / "training").exists()
    train(config, tmp_path / "w")
    train(config, tmp_path / "whole")
    for own, want in zip(arrays(tmp_path / "w"), arrays(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(own, want)


def test_photos_in_memory_make_a_detector(parts: Path) -> None:
    photos = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    detector, variables = jaxad.fit(run_of(parts), photos)
    assert detector.score(variables, photos).image.shape == (5,)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"positions": (5,)}, "train.positions"),
        ({"augment": ("flip",), "feature_cache": "host"}, "feature_cache can not be host: set it"),
        ({"augment": ("flip",), "feature_cache": "device"}, "feature_cache can not be device"),
    ],
)
def test_what_does_not_go_with_it_is_one_line(
    changes: dict[str, Any], told: str, parts: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=told):
        train(run_of(parts, **changes), tmp_path / "w")
    assert not (tmp_path / "w").exists()


def efficientad_of(parts: Path, **method: Any) -> Any:
    config, own = run_of(parts), default_config("efficientad")
    for name in ("data", "train", "score", "report"):
        own[name] = config[name]
    own.data.image_size, own.train.steps = (64, 64), (2, 3)
    own.method.random_weights, own.method.levels = True, ("layer1",)
    own.method.update(channels=4, width=2, autoencoder_width=2, **method)
    return own


def exports_alike(tmp_path: Path) -> None:
    """Export the run `w`, and see that it judges as before."""
    model = tmp_path / "a.jaxad"
    assert main(["export", f"--workdir={tmp_path / 'w'}", "--detector=a", f"--out={model}"]) == 0
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    detector, variables, _ = load(tmp_path / "w", "a")
    want, found = detector.score(variables, images), jaxad.export.load(model).score(images)
    np.testing.assert_allclose(found.map, want.map, rtol=1e-3, atol=1e-4)


def test_teacher_student_and_autoencoder_are_trained_one_after_the_other(
    parts: Path, tmp_path: Path
) -> None:
    config = efficientad_of(parts, penalty=str(parts / "b"))
    config.train.augment, config.train.log_every = ("mirror",), 1
    with pytest.raises(Stopped):
        train(config, tmp_path / "w", check=stopping_after(3))
    train(config, tmp_path / "w")
    lines = [json.loads(line) for line in (tmp_path / "w" / "train.jsonl").open()]
    steps = [(line["phase"], line["step"]) for line in lines if "step" in line]
    assert steps == [("teacher", 1), ("teacher", 2), *(("student", n) for n in (1, 2, 3))]
    each = [lines[-1][f"loss_{name}"] for name in ("hard", "penalty", "autoencoder", "logic")]
    assert lines[-1]["loss"] == pytest.approx(sum(each), rel=1e-5)
    train(config, tmp_path / "whole")
    for own, want in zip(arrays(tmp_path / "w"), arrays(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(own, want)
    exports_alike(tmp_path)


def test_a_published_teacher_needs_no_phase(parts: Path, tmp_path: Path) -> None:
    config = efficientad_of(parts)
    config.method.backbone, config.method.levels = "pdn_small", ()
    with pytest.raises(InputError, match=r"train\.steps is \(N,\), as its teacher is there"):
        train(config, tmp_path / "w")
    config.train.steps, config.train.log_every = (2,), 1
    with pytest.raises(Stopped):
        train(config, tmp_path / "w", check=stopping_after(1))
    train(config, tmp_path / "w")
    lines = [json.loads(line) for line in (tmp_path / "w" / "train.jsonl").open()]
    assert [(line["phase"], line["step"]) for line in lines if "step" in line] == [
        ("student", 1),
        ("student", 2),
    ]
    train(config, tmp_path / "whole")
    for own, want in zip(arrays(tmp_path / "w"), arrays(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(own, want)
    _, variables, _ = load(tmp_path / "w", "a")
    _, given = init_backbone("pdn_small", named_key(config.train.seed, "network/0"))
    own, want = variables["method"]["params"]["teacher"], given["params"]
    np.testing.assert_array_equal(own["conv3"]["kernel"], want["conv3"]["kernel"])
    assert not np.array_equal(own["conv4"]["kernel"], want["conv4"]["kernel"])  # to one scale
    exports_alike(tmp_path)


def test_a_penalty_needs_photos(parts: Path, tmp_path: Path) -> None:
    config = efficientad_of(parts, penalty=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        train(config, tmp_path / "w")


def draem_of(parts: Path, **method: Any) -> Any:
    config, own = run_of(parts), default_config("draem")
    for name in ("data", "train", "score", "report"):
        own[name] = config[name]
    own.train.steps, own.train.log_every = (3,), 1
    own.method.update({"width": 2, "telling_width": 2, "halvings": 1, **method})
    return own


def test_draem_learns_from_defects_made_of_other_photos(parts: Path, tmp_path: Path) -> None:
    config = draem_of(parts, textures=str(parts / "b"))
    with pytest.raises(Stopped):
        train(config, tmp_path / "w", check=stopping_after(2))
    train(config, tmp_path / "w")
    lines = [json.loads(line) for line in (tmp_path / "w" / "train.jsonl").open()]
    assert [line["step"] for line in lines if "step" in line] == [1, 2, 3]
    each = [lines[-1][f"loss_{name}"] for name in ("l2", "ssim", "focal")]
    assert lines[-1]["loss"] == pytest.approx(sum(each), rel=1e-5)
    assert json.loads((tmp_path / "w" / "config.json").read_text())["weights"] == {}
    train(config, tmp_path / "whole")
    for own, want in zip(arrays(tmp_path / "w"), arrays(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(own, want)
    judges(tmp_path / "w", parts, tmp_path)


def test_draem_learns_from_augmented_photos_and_generated_textures(
    parts: Path, tmp_path: Path
) -> None:
    config = draem_of(parts)
    config.train.augment, config.train.steps = ("mirror",), (2,)
    train(config, tmp_path / "w")
    lines = [json.loads(line) for line in (tmp_path / "w" / "train.jsonl").open()]
    losses = [line["loss"] for line in lines if "step" in line]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    assert all(np.isfinite(leaf).all() for leaf in arrays(tmp_path / "w"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"textures": "nowhere"}, "nowhere: no such file or folder"),
        ({"halvings": 5}, "photos of 48 x 32 pixels: DRAEM halves them 5 times"),
    ],
)
def test_what_draem_can_not_do_is_one_line(
    changes: dict[str, Any], told: str, parts: Path, tmp_path: Path
) -> None:
    config = draem_of(parts, **changes)
    config.data.image_size = (48, 32)
    with pytest.raises(InputError, match=told):
        train(config, tmp_path / "w")


def test_quarter_turns_are_for_squares(parts: Path) -> None:
    config = run_of(parts, augment=("turn",))
    config.data.image_size = (32, 48)
    with pytest.raises(InputError, match="'turn', and photos of 32 x 48 are no squares"):
        check_config(config)


def test_a_student_is_a_resnet(parts: Path, tmp_path: Path) -> None:
    config = run_of(parts)
    config.method.backbone, config.method.levels = "efficientnet_lite0", ("stage2",)
    with pytest.raises(InputError, match=r"method\.backbone is efficientnet_lite0: a student"):
        train(config, tmp_path / "w")
    assert not (tmp_path / "w").exists()
