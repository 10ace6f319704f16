"""Photos that a run holds back: never trained on, counted, said, and the same ever after."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from configuring import configured
from conftest import untimed

from jaxad.core import InputError
from jaxad.data.manifest import Manifest, read_csv, write_csv
from jaxad.data.write_prepared import write_prepared
from jaxad.errors import Stopped
from jaxad.main import main
from jaxad.recipes.build import build_backbones
from jaxad.runs.calibrations import read_calibrations
from jaxad.runs.dataset import jobs_of, read_dataset, reading_of
from jaxad.runs.evaluate import evaluate
from jaxad.runs.train import train
from jaxad.runs.workdir import load

COUNTS = ("n_train", "n_calibration", "n_test")


def counts(results: dict[str, Any]) -> list[list[int]]:
    return [[c[key] for key in COUNTS] for c in results["categories"].values()]


@pytest.fixture(scope="module")
def held(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of category a that holds photos back: to be looked at, not changed."""
    workdir = tmp_path_factory.mktemp("held") / "w"
    train(configured(parts, data__categories="a", data__calibration=0.1), workdir)
    return workdir


def test_they_are_as_if_they_were_not_there(
    parts: Path, held: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(parts, data__categories="a", data__calibration=0.1)
    (job,) = jobs_of(read_dataset(config), config)
    assert [len(job.train), len(job.calibration["a"])] == [3, 2]
    shutil.copytree(parts / "a", tmp_path / "parts" / "a")
    for record in job.calibration["a"]:
        (tmp_path / "parts" / record.path).unlink()
    alone = train(configured(tmp_path / "parts"), tmp_path / "w")
    assert "a: 3 photos to train, 0 to calibrate, 5 to test\n" in capsys.readouterr().err
    results = json.loads((held / "results.json").read_text())
    assert untimed(held / "train.jsonl") == untimed(tmp_path / "w" / "train.jsonl")
    assert (counts(results), counts(alone)) == ([[3, 2, 5]], [[3, 0, 5]])
    alone["categories"]["a"]["n_calibration"] = 2
    assert results["categories"] == alone["categories"]
    assert ">calibration<" in (held / "report" / "index.html").read_text()


def test_a_manifest_may_name_them(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(parts, tmp_path / "parts")
    manifest = read_dataset(configured(parts))
    named = [
        r._replace(split="calibration") if r.path.endswith(("a/train/good/000.png", "1.png")) else r
        for r in manifest.records
        if r.split == "train"
    ]
    tested = [r for r in manifest.records if r.split == "test"]
    path = tmp_path / "parts" / "manifest.csv"
    write_csv(type(manifest)(path.parent, (*named, *tested)), path)
    assert read_csv(path).select("a", "calibration").records
    found = [
        counts(
            train(configured(path, data__layout="manifest", data__calibration=share), tmp_path / w)
        )
        for w, share in (("w", 0.0), ("x", 0.5))
    ]
    assert found[0] == found[1] == [[3, 2, 5], [4, 1, 5]]
    line = (
        "a: 3 photos to train, 2 to calibrate, 5 to test; b: 4 photos to train, 1 to calibrate, "
        "5 to test\n"
    )
    assert capsys.readouterr().err.count(line) == 2


def test_one_detector_for_all_and_many_categories(
    tmp_path: Path, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abcdefg":
        shutil.copytree(parts / "a", tmp_path / "parts" / name)
    for number, path in enumerate(sorted((tmp_path / "parts").rglob("*.png"))):
        if "ground_truth" not in path.parts:  # others in every category
            path.write_bytes(path.read_bytes() + bytes([number]))
    config = configured(tmp_path / "parts", data__one_for_all=True, data__calibration=0.1)
    (job,) = jobs_of(read_dataset(config), config)
    assert {name: len(records) for name, records in job.calibration.items()} == dict.fromkeys(
        "abcdefg", 2
    )
    assert len(job.train) == 21
    assert counts(train(config, tmp_path / "w")) == [[3, 2, 5]] * 7
    said = capsys.readouterr().err
    assert "; 2 more categories: 6 photos to train, 4 to calibrate, 10 to test\n" in said


def test_evaluation_keeps_to_them(held: Path, tmp_path: Path, capsys: Any) -> None:
    workdir = Path(shutil.copytree(held, tmp_path / "w"))
    capsys.readouterr()
    assert counts(evaluate(workdir)) == [[3, 2, 5]]
    assert "since training" not in capsys.readouterr().err
    change = "--config.data.calibration=0.3"
    assert main(["evaluate", f"--workdir={workdir}", change]) == 2
    assert "data.calibration belongs to the training" in capsys.readouterr().err
    kept = json.loads((workdir / "data.json").read_text())
    assert kept.pop("n_calibration") == {"a": 2}
    (workdir / "data.json").write_text(json.dumps(kept))  # as it was before
    assert counts(evaluate(workdir)) == [[3, 0, 5]]
    (workdir / "data.json").write_text(json.dumps({**kept, "n_calibration": {"a": "x"}}))
    with pytest.raises(InputError, match=r"data\.json is damaged"):
        evaluate(workdir)


def test_another_share_is_another_run(parts: Path, held: Path, tmp_path: Path) -> None:
    workdir = Path(shutil.copytree(held, tmp_path / "w"))
    config = configured(parts, data__categories="a", data__calibration=0.2)
    with pytest.raises(InputError, match=r"data\.calibration=0\.1 there and 0\.2 now"):
        train(config, workdir)


def test_they_are_decoded_once_too(parts: Path, tmp_path: Path) -> None:
    config = configured(parts, data__categories="a", data__calibration=0.1)
    ready = write_prepared(read_dataset(config), tmp_path, size=(24, 32))
    (job,) = jobs_of(ready, config)
    places = [Path(r.prepared).parts[-2:] for r in job.calibration["a"]]
    assert places == [("calibration", "0"), ("calibration", "1")]


def test_a_photo_in_two_splits_is_said(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(parts / "a", tmp_path / "parts" / "a")
    photos = tmp_path / "parts" / "a"
    shutil.copy(photos / "train" / "good" / "000.png", photos / "test" / "good" / "000.png")
    train(configured(tmp_path / "parts"), tmp_path / "w")
    assert (
        "1 photos of train are in test, too, by content: "
        "'a/train/good/000.png = a/test/good/000.png': keep each in one of them\n"
        in capsys.readouterr().err
    )


def test_they_are_scored_and_draw_the_line(
    parts: Path, held: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(parts, data__categories="a", data__calibration=0.1)
    manifest = read_dataset(config)
    (job,) = jobs_of(manifest, config)
    detector, variables, _ = load(held)
    reading = reading_of(config, build_backbones(config))
    (batch,) = reading.batches(Manifest(manifest.root, job.calibration["a"]), 2)
    expected = detector.score(variables, batch["image"])
    own = read_calibrations(held)["a"].categories["a"]
    np.testing.assert_allclose(own.scores, expected.image, rtol=1e-5)
    np.testing.assert_allclose(own.peaks, expected.map.max(axis=(1, 2)), rtol=1e-5)
    # Two photos are too few for the rate; the run says so, and is good all the same.
    (tmp_path / "c.py").write_text(
        "from configuring import configured\n"
        f"def get_config():\n    return configured({str(parts)!r}, data__categories='a',"
        " data__calibration=0.1)\n"
    )
    command = ["train", f"--config={tmp_path / 'c.py'}", f"--workdir={tmp_path / 'w'}"]
    assert main([*command, "--config.calibrate.false_alarm=0.4"]) == 0
    assert "a: 2 normal photos; above" in capsys.readouterr().out
    again = ["--config.calibrate.false_alarm=0.05", "--overwrite"]
    assert main([*command, *again]) == 0
    assert "a: 2 calibration photos are too few" in capsys.readouterr().out
    found = json.loads((tmp_path / "w" / "calibration.json").read_text())
    assert found == json.loads((held / "calibration.json").read_text())


def test_a_run_that_goes_on_scores_them_once(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(parts, data__calibration=0.1)
    calls: list[int] = []

    def stop() -> None:
        calls.append(1)
        if "b features" in capsys.readouterr().err:
            raise Stopped(15)

    with pytest.raises(Stopped):
        train(config, tmp_path / "w", check=stop)
    first = json.loads((tmp_path / "w" / "calibration.json").read_text())["detectors"]
    assert list(first) == ["a"]
    train(config, tmp_path / "w")
    assert "a calibrate" not in capsys.readouterr().err
    both = json.loads((tmp_path / "w" / "calibration.json").read_text())["detectors"]
    assert both.pop("b")
    assert both == first
