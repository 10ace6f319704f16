"""A method without phases, whose variables grow with the photos, goes through every job."""

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
from conftest import files

import jaxad
import jaxad.export
from jaxad.core import InputError
from jaxad.data.synthetic import write_dataset
from jaxad.errors import Stopped
from jaxad.main import main
from jaxad.runs import checkpoint
from jaxad.runs.calibrate import calibrate
from jaxad.runs.train import train
from jaxad.runs.workdir import load

MEMBERS = {"a": 24, "b": 14}
"""A tenth of 48 patches a photo."""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories of 5 and of 3 photos."""
    root = tmp_path_factory.mktemp("data")
    for name, count in (("a", 5), ("b", 3)):
        write_dataset(
            *(root,), categories=(name,), n_train=count, n_test_good=20, n_test_bad=3, size=(32, 32)
        )
    return root


def run_of(parts: Path, **changes: Any) -> Any:
    return configured(parts, "bank", **{"train__replicates": 2, **changes})


@pytest.fixture(scope="module")
def done(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A work directory, and what was said while it was made."""
    workdir = tmp_path_factory.mktemp("trained") / "w"
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("sys.stderr.write", said.append)
        train(run_of(parts), workdir)
    return workdir, "".join(said)


def metrics_of(workdir: Path) -> Any:
    found = json.loads((workdir / "results.json").read_text())
    return found["categories"], found["replicates"]["mean"]


def arrays(workdir: Path, name: str) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(load(workdir, name)[1]["method"])]


def test_there_are_no_steps_and_each_detector_has_a_bank_of_its_own(
    done: tuple[Path, str],
) -> None:
    workdir, said = done
    for folder in (workdir, workdir / "replicates" / "1"):
        assert [list(json.loads(line)) for line in (folder / "train.jsonl").open()] == [["cost"]]
        for name, count in MEMBERS.items():
            variables = load(folder, name)[1]
            assert variables["method"]["bank"]["members"].shape == (count, 4)
        assert not (folder / "training").exists()
    assert "0.00 M parameters to train" in said
    assert "PatchCore: 24 of 240 patches of 4 numbers are kept" in said
    assert "steps" not in said
    categories, mean = metrics_of(workdir)
    assert set(categories) == set(MEMBERS)
    assert 0 <= mean["image_auroc"]["mean"] <= 1


@pytest.fixture(scope="module")
def calibrated(
    done: tuple[Path, str], parts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    workdir = Path(shutil.copytree(done[0], tmp_path_factory.mktemp("calibrated") / "w"))
    calibrate(workdir, parts / "a" / "test" / "good", category="a", false_alarm=0.1)
    return workdir


def test_it_is_evaluated_and_told_of(
    calibrated: Path, done: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", f"--workdir={calibrated}"]) == 0
    found, before = metrics_of(calibrated), metrics_of(done[0])
    assert (found[0]["a"].pop("n_calibration"), before[0]["a"].pop("n_calibration")) == (20, 0)
    assert found == before
    capsys.readouterr()
    assert main(["status", str(calibrated)]) == 0
    assert "outside.bank on mvtec_ad: finished" in capsys.readouterr().out


def test_the_exported_file_judges_as_the_work_directory(
    calibrated: Path, parts: Path, tmp_path: Path
) -> None:
    model = tmp_path / "a.jaxad"
    assert main(["export", f"--workdir={calibrated}", "--detector=a", f"--out={model}"]) == 0
    images = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), np.uint8)
    detector, variables, _ = load(calibrated, "a")
    for count in (1, 3):
        want = detector.score(variables, images[:count])
        found = jaxad.export.load(model).score(images[:count])
        np.testing.assert_allclose(found.map, want.map, rtol=1e-5)
        np.testing.assert_allclose(found.image, want.image, rtol=1e-5)
    scores = []
    for judge in (["--model", str(model)], ["--workdir", str(calibrated), "--category=a"]):
        out = tmp_path / f"out{len(scores)}"
        assert main(["predict", *judge, str(parts / "a" / "test"), f"--out={out}"]) == 0
        with (out / "predictions.csv").open(newline="") as file:
            scores.append([float(row["score"]) for row in csv.DictReader(file)])
    assert len(scores[0]) == 23
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)


@pytest.mark.parametrize("calls", [1, 5, 9, 14])
def test_a_stopped_run_comes_to_the_same_end(
    calls: int, done: tuple[Path, str], parts: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "w"
    with pytest.raises(Stopped):
        train(run_of(parts), workdir, check=stopping_after(calls))
    train(run_of(parts), workdir)
    assert metrics_of(workdir) == metrics_of(done[0])
    for name in MEMBERS:
        for own, want in zip(arrays(workdir, name), arrays(done[0], name), strict=True):
            np.testing.assert_array_equal(own, want)


def test_a_gallery_of_several_arrays_goes_the_same_ways(parts: Path, tmp_path: Path) -> None:
    config = configured(parts, "gallery", data__categories="a")
    results = []
    for workdir in (tmp_path / "w", tmp_path / "stopped"):
        if workdir.name == "stopped":
            with pytest.raises(Stopped):
                train(config, workdir, check=stopping_after(3))
        results.append(train(config, workdir)["categories"])
    assert results[0] == results[1]
    detector, variables, _ = load(tmp_path / "w", "a")
    shapes = {name: x.shape for name, x in variables["method"]["gallery"].items()}
    assert shapes == {"photos": (5, 4), "level1": (5, 6, 8, 4)}
    model = tmp_path / "a.jaxad"
    assert main(["export", f"--workdir={tmp_path / 'w'}", f"--out={model}"]) == 0
    images = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), np.uint8)
    for own, want in zip(jaxad.export.load(model).score(images), detector.score(variables, images)):
        np.testing.assert_allclose(own, want, rtol=1e-5)


@pytest.mark.parametrize("place", ["device", "off"])
def test_features_that_are_not_kept_make_the_same_bank(
    place: str, done: tuple[Path, str], parts: Path, tmp_path: Path
) -> None:
    train(run_of(parts, train__replicates=1, train__feature_cache=place), tmp_path / "w")
    for own, want in zip(arrays(tmp_path / "w", "b"), arrays(done[0], "b"), strict=True):
        np.testing.assert_allclose(own, want, rtol=1e-5, atol=1e-6)


def test_photos_in_memory_make_the_same_bank(parts: Path) -> None:
    photos = np.random.default_rng(0).integers(0, 256, (5, 24, 32, 3), np.uint8)
    detector, variables = jaxad.fit(run_of(parts), photos)
    assert variables["method"]["bank"]["members"].shape == (24, 4)
    assert detector.score(variables, photos).image.shape == (5,)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", (5,)),
        ("positions", (5,)),
        ("holdout", 0.2),
        ("augment", ("flip",)),
        ("profile", (1, 2)),
    ],
)
def test_what_belongs_to_steps_is_refused(
    key: str, value: Any, parts: Path, tmp_path: Path
) -> None:
    config = run_of(parts, **{f"train__{key}": value})
    with pytest.raises(InputError, match=f"train.{key} is .* learns without steps"):
        train(config, tmp_path / "w")
    assert files(tmp_path) == {}


def test_a_stranger_s_bank_is_one_line(
    done: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = Path(shutil.copytree(done[0], tmp_path / "w"))
    path = workdir / "checkpoints" / "a" / checkpoint.SUMS
    kept = json.loads(path.read_text())
    kept["arrays"]["['bank']['members']"][0][0] = 1 << 39
    path.write_text(json.dumps(kept))
    capsys.readouterr()
    assert main(["evaluate", f"--workdir={workdir}"]) == 2
    assert "GB of memory are free" in capsys.readouterr().err.splitlines()[-1]
