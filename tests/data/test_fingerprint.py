"""What a dataset was, and every change since in a line."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxad.data.fingerprint import changes, fingerprint
from jaxad.data.layouts import scan_dataset
from jaxad.data.manifest import Manifest, Record
from jaxad.data.synthetic import write_dataset
from jaxad.data.tfds_builder import VisualAD
from jaxad.errors import InputError


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    root = tmp_path / "parts"
    write_dataset(
        root, categories=("bolt", "nut"), n_train=6, n_test_good=1, n_test_bad=2, size=(16, 16)
    )
    return root


def taken(root: Path) -> dict[str, Any]:
    return json.loads(json.dumps(fingerprint(scan_dataset("mvtec_ad", root))))


def test_the_same_data_says_nothing(parts: Path) -> None:
    before = taken(parts)
    assert changes(before, taken(parts)) == []
    moved = parts.with_name("moved")
    shutil.copytree(parts, moved)  # with other times
    for path in moved.rglob("*.png"):
        path.touch()
    assert taken(moved) == before
    entry = before["categories"]["bolt"]["test"]["bolt/test/scratch/000.png"]
    assert [len(part) for part in entry.split("-")] == [12, 12, 12]


def test_every_change_is_told(parts: Path) -> None:
    before = taken(parts)
    test = parts / "bolt" / "test"
    swapped = (test / "good" / "000.png").read_bytes()
    (test / "scratch" / "000.png").write_bytes(swapped)
    for number in range(5):
        (parts / "bolt" / "train" / "good" / f"00{number}.png").unlink()
    mask = parts / "bolt" / "ground_truth" / "spot" / "000_mask.png"
    Image.new("L", (16, 16), 9).save(mask)
    shutil.copytree(test / "good", test / "dent")
    shutil.move(parts / "nut", parts / "cog")
    assert changes(before, taken(parts)) == [
        "5 training photos of 'bolt' are gone: 'bolt/train/good/000.png', "
        "'bolt/train/good/001.png', 'bolt/train/good/002.png' and 2 more",
        "1 test photos of 'bolt' changed: 'bolt/test/scratch/000.png'",
        "masks of 1 test photos of 'bolt' changed: 'bolt/test/spot/000.png'",
        "1 test photos of 'bolt' are new: 'bolt/test/dent/000.png'",
        "category 'cog' is new",
        "category 'nut' is not there any more",
    ]
    assert changes(before, taken(parts), categories=("nut",)) == [
        "category 'nut' is not there any more"
    ]
    mask.unlink()
    assert "masks of 1 test photos of 'bolt' changed" in "".join(changes(before, taken(parts)))


def test_a_photo_that_is_held_back_is_told(parts: Path) -> None:
    data = scan_dataset("mvtec_ad", parts, categories="bolt")
    first = data.records[0]._replace(split="calibration")
    now = Manifest(data.root, (first, *data.records[1:]))
    assert changes(fingerprint(data), fingerprint(now)) == [
        f"1 training photos of 'bolt' are gone: {first.path!r}",
        f"1 calibration photos of 'bolt' are new: {first.path!r}",
    ]


def test_a_photo_of_the_same_size_is_another(parts: Path) -> None:
    photo = parts / "bolt" / "train" / "good" / "000.png"
    before = taken(parts)
    content = bytearray(photo.read_bytes())
    content[-1] ^= 1
    photo.write_bytes(content)
    assert changes(before, taken(parts)) == [
        "1 training photos of 'bolt' changed: 'bolt/train/good/000.png'"
    ]


@pytest.mark.parametrize("field", ["label", "subclass", "as_stored"])
def test_what_the_records_say(parts: Path, field: str) -> None:
    data = scan_dataset("mvtec_ad", parts, categories="bolt")
    last = data.records[-1]._replace(**{field: "other" if field != "as_stored" else True})
    now = Manifest(data.root, (*data.records[:-1], last))
    assert changes(fingerprint(data), fingerprint(now)) == [
        f"labels or subclasses of 1 test photos of 'bolt' changed: {last.path!r}"
    ]


def test_each_of_several_masks_counts(parts: Path) -> None:
    folder = parts / "bolt" / "ground_truth" / "spot" / "000"
    folder.mkdir()
    shutil.move(folder.with_name("000_mask.png"), folder / "a.png")
    Image.new("L", (16, 16), 9).save(folder / "b.png")
    before = taken(parts)
    Image.new("L", (16, 16), 8).save(folder / "b.png")
    assert changes(before, taken(parts)) == [
        "masks of 1 test photos of 'bolt' changed: 'bolt/test/spot/000.png'"
    ]


def test_images_within_files(tmp_path: Path, parts: Path) -> None:
    """One entry for all that a category takes from a file."""

    def save(name: str, labels: list[int]) -> None:
        content = {b"data": np.zeros((len(labels), 3072), np.uint8), b"labels": labels}
        (tmp_path / name).write_bytes(pickle.dumps(content, 2))

    save("data_batch_1", list(range(10)))
    save("test_batch", list(range(10)))
    before = fingerprint(scan_dataset("cifar10", tmp_path))
    assert list(before["categories"]["01234"]["train"]) == ["data_batch_1"]
    assert len(json.dumps(before)) < 1500
    save("test_batch", [1, 0, *range(2, 10)])
    lines = changes(before, fingerprint(scan_dataset("cifar10", tmp_path)))
    assert "1 test photos of '13579' changed: 'test_batch'" in lines
    assert not any("training" in line for line in lines)

    at = tmp_path / "visual_ad" / "1.0.0"
    source = scan_dataset("mvtec_ad", parts, categories="bolt")
    VisualAD(source, size=(8, 8), data_dir=tmp_path).download_and_prepare()
    split = Manifest(at, tuple(Record(f"test/{i}", "c", "", "test", "good") for i in range(3)))
    before = fingerprint(split)
    assert list(before["categories"]["c"]["test"]) == ["test"]
    assert changes(before, fingerprint(split)) == []
    (file,) = at.glob("*test.array_record*")
    file.write_bytes(file.read_bytes() + b"x")
    assert changes(before, fingerprint(split)) == ["1 test photos of 'c' changed: 'test'"]


def test_a_file_that_is_gone(parts: Path) -> None:
    data = scan_dataset("mvtec_ad", parts)
    (parts / data.records[0].path).unlink()
    with pytest.raises(InputError, match=r"000\.png: can not be read \(No such file"):
        fingerprint(data)


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        3,
        [],
        {},
        {"version": 2, "categories": {}},
        {"version": 1},
        {"version": 1, "categories": []},
        {"version": 1, "categories": {"a": 1}},
        {"version": 1, "categories": {"a": {"train": []}}},
        {"version": 1, "categories": {"a": {"train": {"x": "y"}}}},
        {"version": 1, "categories": {"a": {"train": {"x": "1-2-3-4"}}}},
        {"version": 1, "categories": {"a": {"train": {"x": [1, 2, 3]}}}},
    ],
)
def test_damaged_ones_are_refused(damaged: Any) -> None:
    with pytest.raises(InputError, match=r"damaged or of another version .*: train again"):
        changes(damaged, {"version": 1, "categories": {}})
