"""What was measured comes back as it was, or is measured again."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import files

from jaxad.report.small import Small
from jaxad.report.view import CategoryView, Example
from jaxad.runs import outcomes as keeping
from jaxad.runs import record
from jaxad.runs.outcomes import FOLDER, Outcomes, forget
from jaxad.runs.score_category import Scored

NAME = "caf\udce9/../x"
"""A category's name may have bytes that are no text, and dots."""


def scored(seed: int = 0) -> Scored:
    rng = np.random.default_rng(seed)

    def example(mask: bool) -> Example:
        return Example(
            "a/caf\udce9.png",
            int(mask),
            rng.integers(0, 255, (4, 6, 3), np.uint8),
            rng.normal(size=(4, 6)).astype(np.float32),
            rng.random((4, 6)) > 0.5 if mask else None,
            float(rng.normal()),
            7,
        )

    view = CategoryView(
        np.asarray([0, 1]),
        rng.normal(size=2),
        [example(True), example(True)],
        [],
        [example(False)],
        (0.1, 0.30000000000000004),
        names=["a/caf\udce9.png", "b"],
        kinds=["good", "caf\udce9"],
        small=Small(
            np.asarray([1]), rng.integers(0, 255, (1, 2, 3, 3), np.uint8), rng.random((1, 2, 3))
        ),
        pro=rng.random((2, 7)) if seed else None,
    )
    metrics = {"image_auroc": 1 / 3, "pixel_auroc": None, "n_test": 5}
    return Scored(metrics, view, 1.25, (3, 0.1))


def plain(value: Any) -> Any:
    """With arrays as bytes, to be compared."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, (tuple, list)):
        return [plain(one) for one in value]
    return value


def kept_in(folder: Path, key: str = "k") -> Outcomes:
    return Outcomes(record.read(folder) or record.claim(folder, [], overwrite=False), key)


def test_it_comes_back_to_the_bit(tmp_path: Path) -> None:
    kept_in(tmp_path).keep(NAME, scored())
    kept_in(tmp_path).keep("other", scored(1))
    for name, seed in ((NAME, 0), ("other", 1)):
        assert plain(kept_in(tmp_path).kept(name)) == plain(scored(seed))
    assert kept_in(tmp_path).kept("third") is None
    kept_in(tmp_path).keep(NAME, scored(2))
    assert plain(kept_in(tmp_path).kept(NAME)) == plain(scored(2))


def test_of_another_key_it_is_nothing(tmp_path: Path, capsys: Any) -> None:
    kept_in(tmp_path).keep(NAME, scored())
    assert kept_in(tmp_path, "other").kept(NAME) is None
    (path,) = (tmp_path / FOLDER).iterdir()
    path.rename(kept_in(tmp_path)._path("other"))
    assert kept_in(tmp_path).kept("other") is None
    assert capsys.readouterr().err == ""


def test_of_another_form_it_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with monkeypatch.context() as before:
        before.setattr(keeping, "_FORMAT", 1)
        kept_in(tmp_path).keep(NAME, scored())
    assert kept_in(tmp_path).kept(NAME) is None
    assert capsys.readouterr().err == ""


def test_forgotten_it_leaves_no_trace_and_takes_nothing_of_others(tmp_path: Path) -> None:
    kept_in(tmp_path).keep(NAME, scored())
    (tmp_path / FOLDER / "notes.txt").write_text("mine")
    ours = record.read(tmp_path)
    assert ours is not None
    forget(ours)
    assert set(files(tmp_path)) == {"jaxad.json", f"{FOLDER}/notes.txt"}


@pytest.mark.parametrize("bit", range(0, 8000, 311))
def test_a_wrong_bit_is_found(bit: int, tmp_path: Path, capsys: Any) -> None:
    kept_in(tmp_path).keep("a", scored())
    (path,) = (tmp_path / FOLDER).iterdir()
    data = bytearray(path.read_bytes())
    at = bit % (8 * len(data))
    data[at // 8] ^= 1 << at % 8
    path.write_bytes(data)
    found = kept_in(tmp_path).kept("a")
    if found is not None:  # in a time or another field of the archive that says nothing
        assert plain(found) == plain(scored())
    else:
        assert "a is scored again" in capsys.readouterr().err


def test_what_could_grow_or_run_is_refused(tmp_path: Path, capsys: Any) -> None:
    kept_in(tmp_path).keep("a", scored())
    (path,) = (tmp_path / FOLDER).iterdir()
    whole = path.read_bytes()
    bomb, pickle = io.BytesIO(), io.BytesIO()
    np.savez_compressed(bomb, about=np.zeros(10**7, np.uint8))
    np.savez(pickle, about=np.asarray([{"a": 1}], object))
    cut = whole[: len(whole) // 2]
    huge = io.BytesIO()
    with zipfile.ZipFile(huge, "w") as members:
        header = b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }"
        members.writestr("about.npy", (header % 2**60).ljust(127) + b"\n")
    for data in (bomb.getvalue(), pickle.getvalue(), cut, b"", huge.getvalue()):
        path.write_bytes(data)
        assert kept_in(tmp_path).kept("a") is None
        assert "a is scored again" in capsys.readouterr().err
