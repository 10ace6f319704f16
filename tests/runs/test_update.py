"""A bank learns further photos and forgets others; what was found with the old one says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from configuring import configured
from conftest import files

from jaxad.data.synthetic import write_dataset
from jaxad.main import main
from jaxad.runs import checkpoint
from jaxad.runs.calibrate import calibrate
from jaxad.runs.train import train
from jaxad.runs.workdir import load, photos_of_bank

EACH = 48
"""Patches a photo, a tenth of which is kept."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A category that is learnt, and `new/a`, which comes later."""
    root = tmp_path_factory.mktemp("photos")
    for to, count, seed in ((root / "parts", 5, 0), (root / "new", 3, 5)):
        write_dataset(
            *(to,), categories=("a",), n_train=count, n_test_good=10, n_test_bad=2,
            size=(32, 32), seed=seed,
        )  # fmt: skip
    return root


@pytest.fixture(scope="module")
def once(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("trained") / "w"
    train(configured(photos / "parts", "bank"), workdir)
    calibrate(workdir, photos / "parts" / "a" / "test" / "good", false_alarm=0.1)
    return workdir


@pytest.fixture
def trained(once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(once, tmp_path / "w"))


def learnt(photos: Path) -> list[Path]:
    return sorted((photos / "parts" / "a" / "train" / "good").iterdir())


def bank_of(workdir: Path) -> tuple[np.ndarray, np.ndarray]:
    bank = load(workdir)[1]["method"]["bank"]
    return np.asarray(bank["members"]), np.asarray(bank["photo"])


def updated(workdir: Path, *arguments: object) -> int:
    return main(["update", f"--workdir={workdir}", *map(str, arguments)])


def test_new_photos_keep_the_share_and_old_members_stay(
    trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, of = bank_of(trained)
    assert updated(trained, "--add", photos / "new" / "a" / "train" / "good") == 0
    told = capsys.readouterr().out
    assert (
        "a: 3 photos added (14 members), 0 forgotten (0 members); the bank had 24 and has 38"
        in (told)
    )
    members, photo = bank_of(trained)
    assert len(members) == 8 * EACH // 10 == 38
    np.testing.assert_array_equal(members[:24], before)
    np.testing.assert_array_equal(photo[:24], of)
    assert set(photo[24:]) <= {5, 6, 7}
    assert len(photos_of_bank(trained, "a")) == 8
    # No new member lies where there is one.
    apart = np.linalg.norm(members[24:, None] - before[None], axis=-1)
    assert apart.min() > 0


def test_what_is_forgotten_takes_its_members_along(trained: Path, photos: Path) -> None:
    before, of = bank_of(trained)
    listed = trained.parent / "list.txt"
    listed.write_text(f"{learnt(photos)[3]}\n\n")
    assert updated(trained, "--forget", learnt(photos)[1], "--forget-list", listed) == 0
    members, photo = bank_of(trained)
    np.testing.assert_array_equal(members, before[~np.isin(of, (1, 3))])
    assert set(photo) <= {0, 1, 2}
    np.testing.assert_array_equal(photo, np.asarray([0, -1, 1, -1, 2])[of[~np.isin(of, (1, 3))]])
    assert len(photos_of_bank(trained, "a")) == 3


def test_both_at_once_keep_the_share(trained: Path, photos: Path) -> None:
    new = photos / "new" / "a" / "train" / "good"
    assert updated(trained, "--add", new, "--forget", *learnt(photos)[:2]) == 0
    members, photo = bank_of(trained)
    assert len(members) == 6 * EACH // 10
    assert set(photo) <= set(range(6))


def test_what_was_found_before_says_so(
    trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = photos / "parts" / "a" / "test" / "good"
    assert updated(trained, "--forget", learnt(photos)[0]) == 0
    assert f"run jaxad calibrate --workdir {trained}" in capsys.readouterr().err
    assert main(["predict", f"--workdir={trained}", str(good), f"--out={trained}/out"]) == 2
    told = capsys.readouterr().err
    assert "no calibration since the update of 'a': run jaxad calibrate" in told
    assert main(["status", str(trained)]) == 0
    assert "updated since: run jaxad evaluate" in capsys.readouterr().out
    page = trained / "report" / "index.html"
    assert "The bank of a has changed: jaxad evaluate" in page.read_text()
    calibrate(trained, good, false_alarm=0.1)
    assert "stale" not in (trained / "calibration.json").read_text()
    assert main(["evaluate", f"--workdir={trained}"]) == 0
    assert "stale" not in json.loads((trained / "results.json").read_text())
    assert "has changed: jaxad evaluate" not in page.read_text()


def test_photos_that_were_added_do_not_calibrate(
    trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = photos / "new" / "a" / "train" / "good"
    assert updated(trained, "--add", new) == 0
    assert main(["calibrate", f"--workdir={trained}", str(new)]) == 2
    assert "3 of 3 photos" in capsys.readouterr().err
    assert updated(trained, "--add", new) == 2
    assert "has no photo that the bank of a has not" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "name photos by --add, --forget or --forget-list"),
        (("--forget", "{new}/000.png"), "the bank has no photo of what is in"),
        (("--forget", "{new}/none.png"), "no such file"),
        (("--add", "{test}"), "photos in {test} are test photos"),
        (("--add", "{empty}"), "{empty} has no photos"),
        (("--add", "{new}", "--category", "b"), "name one of them by --category, not 'b'"),
        (("--forget", *(f"{{good}}/{n:03d}.png" for n in range(5))), "fewer than the 3 neighbours"),
    ],
)  # fmt: skip
def test_what_can_not_be_done_is_one_line_and_changes_nothing(
    arguments: Any, told: str, trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {
        "new": photos / "new" / "a" / "train" / "good",
        "good": photos / "parts" / "a" / "train" / "good",
        "test": photos / "parts" / "a" / "test",
        "empty": trained.parent / "empty",
    }
    places["empty"].mkdir()
    arguments = [a.format(**{k: str(v) for k, v in places.items()}) for a in arguments]
    before = files(trained)
    capsys.readouterr()
    assert updated(trained, *arguments) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert told.format(**{k: str(v) for k, v in places.items()}) in line
    assert files(trained) == before


def test_what_can_not_be_written_leaves_all_as_it_was(
    trained: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    before = files(trained)
    monkeypatch.setattr(checkpoint, "seal", full)
    assert updated(trained, "--forget", learnt(photos)[0]) == 2
    assert files(trained) == before


def test_a_method_without_a_bank_is_refused(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(configured(photos / "parts"), tmp_path / "w")
    capsys.readouterr()
    assert updated(tmp_path / "w", "--forget", learnt(photos)[0]) == 2
    assert "outside.tiny keeps no bank of photos" in capsys.readouterr().err
