"""Calibrations are measured, kept, refitted; what would break their promise is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import files

import jaxad
from jaxad.core import Scores
from jaxad.data.images import decode_image
from jaxad.data.manifest import GOOD, Record
from jaxad.data.reading import Reading
from jaxad.data.synthetic import write_dataset
from jaxad.errors import InputError
from jaxad.main import main
from jaxad.runs.calibrate import calibrate
from jaxad.runs.calibrations import FILE, read_calibrations
from jaxad.runs.score_category import normal_scores


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Normal photos that training has not seen."""
    root = tmp_path_factory.mktemp("new")
    write_dataset(
        root, categories=("a",), n_train=20, n_test_good=1, n_test_bad=0, size=(32, 32), seed=7
    )
    return root / "a" / "train" / "good"


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Further ones."""
    root = tmp_path_factory.mktemp("more")
    write_dataset(
        root, categories=("a",), n_train=3, n_test_good=1, n_test_bad=0, size=(32, 32), seed=8
    )
    return root / "a" / "train" / "good"


def test_new_photos_are_scored_as_the_detector_does(trained: Path, photos: Path) -> None:
    found = calibrate(trained, photos, category="a")["a"]
    own = found.categories["a"]
    detector, variables, config = jaxad.load(trained, "a")
    names = sorted(photos.iterdir())
    (backbone,) = detector.backbones.values()
    resample = config.data.resize or backbone.preprocess.resize
    images = np.stack([decode_image(p, size=(24, 32), resample=resample) for p in names])
    scores = detector.score(variables, images)
    np.testing.assert_allclose(own.scores, scores.image, rtol=1e-5)
    np.testing.assert_allclose(own.peaks, np.max(scores.map, axis=(1, 2)), rtol=1e-5)
    assert found.false_alarm == config.calibrate.false_alarm == 0.05
    limits = read_calibrations(trained)["a"].limits("a")
    assert (limits.score, limits.pixel) == (own.scores.max(), own.peaks.max())


def test_pixels_have_a_limit_of_their_own(photos: Path) -> None:
    records = [
        Record(path.name, "a", kind, "calibration", GOOD)
        for path, kind in zip(sorted(photos.iterdir()), "xyzxyzx")
    ]

    def score(images: np.ndarray) -> Scores:
        pixels = np.asarray(images, np.float32)[..., 0]
        return Scores(pixels, pixels.mean(axis=(1, 2)))

    reading = Reading((24, 32), "bilinear")
    found = normal_scores("a", records, photos, score, reading=reading, batch_size=3)
    want = score(
        np.stack(
            [decode_image(photos / r.path, size=(24, 32), resample="bilinear") for r in records]
        )
    )
    np.testing.assert_array_equal(found.scores, want.image)
    np.testing.assert_array_equal(found.peaks, want.map.max(axis=(1, 2)))
    assert found.subclasses == tuple("xyzxyzx")


def test_another_rate_needs_no_photo(trained: Path, photos: Path) -> None:
    first = calibrate(trained, photos, category="a")["a"]
    second = calibrate(trained, false_alarm=0.2, confidence=0.8)["a"]
    assert (second.false_alarm, second.confidence) == (0.2, 0.8)
    assert second.limits("a").score < first.limits("a").score
    np.testing.assert_array_equal(second.categories["a"].scores, first.categories["a"].scores)
    third = calibrate(trained, confidence=0.0)["a"]
    assert (third.false_alarm, third.confidence) == (0.2, None)


def test_photos_are_added_or_replace_those_of_their_kind(
    trained: Path, photos: Path, more: Path, parts: Path, capsys: Any
) -> None:
    def kinds() -> tuple[str, ...]:
        return read_calibrations(trained)["a"].categories["a"].subclasses

    calibrate(trained, photos, category="a", false_alarm=0.2)
    for _ in range(2):
        calibrate(trained, more, category="a", subclass="x")
        assert kinds() == ("",) * 20 + ("x",) * 3
    calibrate(trained, photos, category="a", add=True)  # they are there
    assert kinds() == ("",) * 20 + ("x",) * 3
    calibrate(trained, parts / "a" / "test" / "good", category="a", add=True)
    assert kinds() == ("",) * 20 + ("x",) * 3 + ("",) * 2
    said = capsys.readouterr().err
    assert "20 photos are among those that calibrate already: left out" in said
    assert said.count("2 of these photos are test photos") == 1


def test_what_breaks_the_promise_is_refused(
    trained: Path, photos: Path, parts: Path, tmp_path: Path, capsys: Any
) -> None:
    calibrate(trained, photos, category="a")
    before = files(trained)
    mixed = tmp_path / "mixed"
    shutil.copytree(photos, mixed)
    shutil.copy(next((parts / "a" / "train" / "good").iterdir()), mixed / "seen.png")
    seen = tmp_path / "seen"
    seen.mkdir()
    shutil.copy(mixed / "seen.png", seen)
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(photos.iterdir())[:9]:
        shutil.copy(path, few)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "no.png").write_bytes(b"no photo")
    (tmp_path / "empty").mkdir()
    a: dict[str, Any] = {"category": "a"}
    for folder, more, message in (
        (seen, a, "1 of 1 photos in .* were trained on .'seen.png'., so that their scores promise"),
        (few, a, "9 calibration photos are too few .*: take 19 or more, or 0.1 as the .* --add"),
        (broken, a, "no.png"),
        (tmp_path / "empty", a, "has no photos: name a folder of normal ones"),
        (photos, {}, "was trained on 'a', 'b': name one of them by --category, not None"),
        (photos, {"category": "c"}, "not 'c'"),
        (None, {"false_alarm": 0.01}, "20 calibration photos are too few .* take 99"),
        (None, {"false_alarm": 1.5}, "must lie between 0 and 1"),
    ):
        with pytest.raises(InputError, match=message):
            calibrate(trained, folder, **more)
    assert files(trained) == before
    shutil.copy(mixed / sorted(photos.iterdir())[0].name, mixed / "copy.png")
    capsys.readouterr()
    found = calibrate(trained, mixed, category="a")["a"]
    said = capsys.readouterr().err
    assert "1 photos in" in said
    assert "1 of 22 photos in" in said
    assert "left out, as their scores promise nothing" in said
    assert len(found.categories["a"].scores) == 21


def test_photos_that_look_anomalous_are_asked_about(
    trained: Path, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    scores = calibrate(trained, photos, category="a")["a"].categories["a"].scores
    names = sorted(photos.iterdir())
    for place, n in enumerate(np.argsort(scores)):
        folder = tmp_path / ("low" if place < 10 else "high")
        folder.mkdir(exist_ok=True)
        shutil.copy(names[n], folder)
    (trained / FILE).unlink()
    low = calibrate(trained, tmp_path / "low", category="a", false_alarm=0.2)
    before = low["a"].limits("a").score
    capsys.readouterr()
    calibrate(trained, tmp_path / "high", category="a", add=True)
    said = capsys.readouterr().err
    assert f"10 of 10 photos score above the limit so far ({before:.6g}): are they all" in said
    assert f"a: the limit of scores was {before:.6g}" in said


def test_photos_that_are_no_normal_parts_are_left_out(
    trained: Path, photos: Path, capsys: Any
) -> None:
    own = calibrate(trained, photos, category="a", false_alarm=0.2)["a"].categories["a"]
    assert own.photos == tuple(path.name for path in sorted(photos.iterdir()))
    order = np.argsort(own.scores)
    odd = own.photos[order[-1]]
    with pytest.raises(InputError, match=r"nothing.png does not calibrate: name photos that do"):
        calibrate(trained, leave_out=["nothing.png"])
    assert read_calibrations(trained)["a"].categories["a"].photos == own.photos
    command = ["calibrate", f"--workdir={trained}", "--false-alarm=0.05", "--leave-out", odd]
    assert main(command) == 0
    assert (
        f"the line is the score of {own.photos[order[-2]]}, the highest" in capsys.readouterr().out
    )
    left = read_calibrations(trained)["a"]
    assert left.limits("a").score == own.scores[order[-2]]
    assert odd not in left.categories["a"].photos
    assert len(left.categories["a"].scores) == 19
    with pytest.raises(InputError, match=r"18 calibration photos are too few"):
        calibrate(trained, leave_out=left.categories["a"].photos[:1])


def test_photos_that_were_left_out_stay_out(
    trained: Path, photos: Path, more: Path, tmp_path: Path, capsys: Any
) -> None:
    """Under another name, too; and come back where calibration begins anew."""
    own = calibrate(trained, photos, category="a", false_alarm=0.2)["a"].categories["a"]
    odd = own.photos[int(np.argmax(own.scores))]
    left = calibrate(trained, leave_out=[str(photos / odd)])["a"]  # as a file is named
    assert left.left_out["a"].photos == (odd,)
    assert read_calibrations(trained)["a"].left_out["a"].scores == own.scores.max()
    shutil.copy(photos / odd, tmp_path / "renamed.png")
    shutil.copy(next(more.iterdir()), tmp_path / "new.png")
    capsys.readouterr()
    found = calibrate(trained, tmp_path, category="a", add=True)["a"]
    said = capsys.readouterr().err
    assert "1 of these photos were left out before ('renamed.png'): left out again" in said
    assert found.categories["a"].photos == (*left.categories["a"].photos, "new.png")
    again = calibrate(trained, photos, category="a")["a"]
    assert f"were left out before ('{odd}'): they count again" in capsys.readouterr().err
    assert again.categories["a"].photos == own.photos
    assert not again.left_out


def test_what_another_subclass_left_out_stays_out(
    trained: Path, photos: Path, more: Path, tmp_path: Path, capsys: Any
) -> None:
    """Calibration begins anew for one subclass alone."""
    late = tmp_path / "late"
    late.mkdir()
    for n, photo in enumerate(sorted(more.iterdir())):
        shutil.copy(photo, late / f"late{n}.png")
    calibrate(trained, photos, category="a", false_alarm=0.2)
    early = sorted(path.name for path in photos.iterdir())[0]
    calibrate(trained, late, category="a", subclass="late", add=True)
    calibrate(trained, leave_out=[early, "late0.png"])
    shutil.copy(photos / early, late / "again.png")
    capsys.readouterr()
    found = calibrate(trained, late, category="a", subclass="late")["a"]
    said = capsys.readouterr().err
    assert "1 of these photos were left out before ('again.png'): left out again" in said
    assert "1 of these photos were left out before ('late0.png'): they count again" in said
    assert found.left_out["a"].photos == (early,)
    assert set(found.categories["a"].of("late").photos) == {"late0.png", "late1.png", "late2.png"}


def test_without_a_calibration_the_command_is_named(trained: Path) -> None:
    (trained / FILE).unlink(missing_ok=True)
    with pytest.raises(InputError, match="has no calibration: run jaxad calibrate --workdir"):
        calibrate(trained)


@pytest.mark.parametrize(
    "damage", ["{", "[]", '{"format": 9, "detectors": {}}', '{"format": 1, "detectors": {"a": 3}}']
)
def test_a_damaged_calibration_is_refused_and_replaced(
    damage: str, trained: Path, photos: Path
) -> None:
    calibrate(trained, photos, category="a")
    (trained / FILE).write_text(damage)
    with pytest.raises(InputError, match="run jaxad calibrate again"):
        calibrate(trained)
    calibrate(trained, photos, category="a")
    assert len(read_calibrations(trained)["a"].categories["a"].scores) == 20


def test_the_command_says_where_the_line_is(trained: Path, photos: Path, capsys: Any) -> None:
    command = ["calibrate", f"--workdir={trained}"]
    assert main([*command, str(photos), "--category=a", "--false-alarm=0.1"]) == 0
    out = capsys.readouterr().out
    limits = read_calibrations(trained)["a"].limits()
    assert "a: 20 normal photos; above" in out
    assert f"{limits.score:.6g}" in out
    assert "at most 10 % of normal photos on average" in out
    wrote = json.loads((trained / "jaxad.json").read_text())["wrote"]
    assert FILE in wrote
    assert main([*command, "--false-alarm=7"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([*command, "--config.a=3"]) == 2
