"""A detector that takes photos for subclasses: limits, rows and files by what it takes them for."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from configuring import configured
from PIL import Image

import jaxad
from jaxad.core import InputError, Routed
from jaxad.data.sources import Photo
from jaxad.data.synthetic import write_dataset
from jaxad.main import main
from jaxad.runs import export as job
from jaxad.runs.audit import audit
from jaxad.runs.calibrate import calibrate
from jaxad.runs.calibrations import read_calibrations
from jaxad.runs.evaluate import evaluate
from jaxad.runs.models import Judge, open_judge
from jaxad.runs.predict import new_drift, predict
from jaxad.runs.rows import Decoded, decode, judged
from jaxad.runs.train import train
from jaxad.scorer import make_scorer


def write_photos(folder: Path, count: int, seed: int) -> Path:
    """Photos of noise around grey, and as many brighter ones."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for name, mean, spread in (("grey", 115, 15), ("white", 215, 25)):
        for number in range(count):
            pixels = rng.normal(mean, spread * rng.uniform(0.2, 1), (24, 32, 3))
            image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            image.save(folder / f"{name}{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory that is calibrated by 20 photos of each kind."""
    folder = tmp_path_factory.mktemp("routed")
    kinds = {"layout": "texture_ad", "categories": ("cloth",), "subclasses": ("grey", "white")}
    write_dataset(folder / "data", n_train=4, n_test_good=1, n_test_bad=1, size=(24, 32), **kinds)
    train(configured(folder / "data", "routes", data__layout="texture_ad"), folder / "w")
    calibrate(folder / "w", write_photos(folder / "new", 20, seed=1), false_alarm=0.1)
    return folder / "w"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos") / "seen", 12, seed=2)


def rows_of(judge: Judge, photos: Path, out: Path) -> list[dict[str, str]]:
    predict([str(photos)], out, judge)
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def rows(
    workdir: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, str]]:
    return rows_of(open_judge(workdir=workdir), photos, tmp_path_factory.mktemp("out") / "o")


def test_calibration_keeps_what_its_photos_were_taken_for(workdir: Path) -> None:
    own = read_calibrations(workdir)["cloth"]
    normal = own.categories["cloth"]
    assert normal.routed == ("grey",) * 20 + ("white",) * 20
    assert set(normal.subclasses) == {""}
    judge = open_judge(workdir=workdir)
    assert judge.subclasses == ("grey", "white")
    assert (judge.note, set(judge.routed)) == ("", {"grey", "white"})
    assert judge.routed["grey"].score != judge.routed["white"].score


def test_rows_are_judged_by_the_limits_of_what_they_are_taken_for(
    workdir: Path, rows: list[dict[str, str]]
) -> None:
    judge = open_judge(workdir=workdir)
    detector, variables, _ = jaxad.load(workdir)
    scorer = make_scorer(detector, variables, batch_size=24, size=judge.size, routed=True)
    assert {row["subclass"] for row in rows} == {"grey", "white"}
    pixels = [_pixels(row["path"], judge) for row in rows]
    found = scorer.score(np.stack(pixels[:24]))
    taken = [judge.subclasses[index] for index in np.asarray(found.subclass)]
    assert [row["subclass"] for row in rows[:24]] == taken
    for row in rows:
        limits = judge.routed[row["subclass"]]
        score = np.float32(row["score"])
        assert float(row["threshold"]) == limits.score
        assert row["decision"] == ("anomalous" if score > limits.score else "good")
        assert float(row["p_value"]) == limits.p_values(np.asarray([score]))[0]
        peaks = [region["peak"] for region in json.loads(row["regions"])]
        assert all(peak >= limits.pixel * (1 - 1e-6) for peak in peaks)


def _pixels(path: str, judge: Judge) -> Any:
    return decode(Photo(path, path), judge).pixels


def test_results_page_and_audit_decide_as_predict(workdir: Path, tmp_path: Path) -> None:
    """By what each test photo is taken for, not by one line for all."""
    other = Path(shutil.copytree(workdir, tmp_path / "w"))
    found = evaluate(other)["decisions"]["cloth"]
    judge = open_judge(workdir=other)
    rows = []
    for kind in judge.subclasses:
        tests = workdir.parent / "data" / "cloth" / kind / "test"
        rows += rows_of(judge, tests, tmp_path / kind)
    assert found["threshold"] == judge.limits.score
    assert found["thresholds"] == {name: own.score for name, own in judge.routed.items()}
    called = sum(row["decision"] == "anomalous" for row in rows)
    assert found["found"] + found["alarms"] == called
    assert sum(found[name] for name in ("found", "missed", "alarms", "passed")) == len(rows)
    page = (other / "report" / "index.html").read_text()
    assert "the line of its subclass" in page
    (share,) = [
        row["value"]
        for row in audit(other, resamples=0)["categories"]["cloth"]
        if row["metric"] == "defects found"
        and row["convention"] == "conformal threshold, for each subclass, 10 % false alarms"
    ]
    assert share == found["found"] / (found["found"] + found["missed"])


def test_a_file_judges_as_its_work_directory(
    workdir: Path, photos: Path, rows: list[dict[str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "part.jaxad"
    job.export(workdir, out, platforms=("cpu",), photos=False)
    own = open_judge(model=out)
    assert own.subclasses == ("grey", "white")
    found = rows_of(own, photos, tmp_path / "o")
    for name in ("path", "subclass", "threshold", "decision"):
        assert [row[name] for row in found] == [row[name] for row in rows]


def test_a_file_that_takes_photos_for_others_is_not_left(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = job.load_file

    def wrong(path: Path) -> Any:
        class Off:
            def routed(self, images: Any) -> Any:
                found = read(path).routed(images)
                return found._replace(subclass=1 - found.subclass)

        return Off()

    monkeypatch.setattr(job, "load_file", wrong)
    with pytest.raises(InputError, match="it takes photos for other subclasses than"):
        job.export(workdir, tmp_path / "part.jaxad", platforms=("cpu",), photos=False)
    assert not list(tmp_path.iterdir())


def test_without_photos_enough_the_limits_of_the_category_count_and_it_is_said(
    workdir: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "--workdir", str(workdir)]) == 0
    said = capsys.readouterr().out
    assert "cloth: 40 normal photos; above" in said
    assert said.count(" of them are taken for ") == 2
    other = Path(shutil.copytree(workdir, tmp_path / "w"))
    arguments = ["calibrate", "--workdir", str(other), "--false-alarm", "0.03"]
    assert main(arguments) == 0
    assert "too few (33 do): for these the limits of cloth" in capsys.readouterr().out
    judge = open_judge(workdir=other)
    assert judge.routed == {}
    assert (
        "taken for 'grey', 'white' are judged by the limits of the category: fewer than 33"
        in judge.note
    )
    rows = rows_of(judge, photos, tmp_path / "o")
    assert {row["subclass"] for row in rows} == {"grey", "white"}
    assert {float(row["threshold"]) for row in rows} == {judge.limits.score}


def test_a_calibration_of_before_judges_as_before(workdir: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(workdir, tmp_path / "w"))
    kept = json.loads((other / "calibration.json").read_text())
    del kept["detectors"]["cloth"]["categories"]["cloth"]["routed"]
    (other / "calibration.json").write_text(json.dumps(kept))
    judge = open_judge(workdir=other)
    assert judge.routed == {}
    assert judge.limits.score == open_judge(workdir=workdir).limits.score
    assert "does not know what its photos are taken for" in judge.note


def test_drift_is_looked_for_among_what_passes_by_the_same_limits(workdir: Path) -> None:
    judge = open_judge(workdir=workdir)
    (normal,) = judge.limits.normal
    limits = [judge.routed[name] for name in normal.routed]
    passed = [i for i in range(40) if normal.scores[i] <= limits[i].score]
    drift = new_drift(judge)
    assert drift is not None
    p_values = [limits[i].p_values(normal.scores[i : i + 1])[0] for i in passed]
    drift.add(normal.scores[passed], np.asarray(p_values))
    found = drift.verdict()
    assert (found.passed, found.distance) == (len(passed), 0)
    assert found.mean_p == pytest.approx(found.expected, abs=0.02)


def test_a_program_that_names_no_known_subclass_ends_in_one_line(workdir: Path) -> None:
    judge = open_judge(workdir=workdir)
    maps = np.zeros((judge.batch_size, *judge.size), np.float32)
    for wrong in (-1, 2):
        found = Routed(maps, maps[:, 0, 0], np.full(len(maps), wrong, np.int32))
        with pytest.raises(InputError, match="a subclass beyond the 2 that it names"):
            list(judged([Decoded(None, maps[0], (1, 1), "")], found, judge))
