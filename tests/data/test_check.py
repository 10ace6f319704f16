from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxad.data.check import LIMIT, check_dataset, describe
from jaxad.data.manifest import Manifest, Record
from jaxad.data.synthetic import write_dataset
from jaxad.errors import InputError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    write_dataset(
        tmp_path, categories=("nut",), n_train=3, n_test_good=2, n_test_bad=4, size=(32, 40)
    )
    return tmp_path


@pytest.mark.parametrize("decode", [False, True])
def test_a_sound_dataset(parts: Path, decode: bool) -> None:
    (parts / "nut" / "ground_truth" / "spot" / "000_mask.png").unlink()
    text, ok = check_dataset(parts, decode=decode)
    assert ok
    assert text.splitlines()[:7] == [
        "layout mvtec_ad",
        f"root {parts}",
        "9 images, 1 category",
        "nut: train 2 good, calibration 1 good, test 2 good + 4 defective",
        "  defects: missing_piece 1, scratch 2, spot 1",
        "  masks: 3 present, 1 missing",
        "  modes: RGB 9",
    ]
    assert "  sizes: 40x32 9" in text
    assert "no problems" in text
    assert ("headers only" in text) != decode


def test_the_photos_that_training_holds_back(parts: Path) -> None:
    text, _ = check_dataset(parts, calibration=0)
    assert "nut: train 3 good, calibration 0 good, test 2 good" in text
    own = parts / "nut" / "calibration" / "good"
    own.mkdir(parents=True)
    (parts / "nut" / "train" / "good" / "000.png").rename(own / "x.png")
    for share in (0, 0.5):
        text, ok = check_dataset(parts, calibration=share)
        assert ok
        assert "nut: train 2 good, calibration 1 good, test 2 good" in text


def test_photos_in_two_splits_are_told(parts: Path) -> None:
    leaked = parts / "nut" / "test" / "good" / "000.png"
    leaked.write_bytes((parts / "nut" / "train" / "good" / "001.png").read_bytes())
    text, ok = check_dataset(parts, calibration=0)
    assert ok
    assert (
        f"remark: {parts}: 1 photos of train are in test, too, by content: "
        "'nut/train/good/001.png = nut/test/good/000.png'" in text
    )


def test_all_problems_are_listed(parts: Path) -> None:
    train = parts / "nut" / "train" / "good"
    whole = (train / "000.png").read_bytes()
    (train / "000.png").write_bytes(whole[: len(whole) // 2])
    (train / "001.png").write_bytes(b"")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(train / "002.png")
    Image.new("L", (7, 5)).save(parts / "nut" / "ground_truth" / "spot" / "000_mask.png")
    (parts / "nut" / "train" / "dent").mkdir()
    Image.new("L", (32, 32)).save(parts / "nut" / "train" / "dent" / "0.png")
    mask = parts / "nut" / "ground_truth" / "scratch" / "000_mask.png"
    Image.new("L", (40, 32)).save(mask)

    text, ok = check_dataset(parts, layout="mvtec_ad")
    assert not ok
    listed = [line for line in text.splitlines() if line.startswith("problem: ")]
    assert len(listed) == 4
    for part in ("defective images in train", "empty (0 bytes)", "16 bits", "7x5 pixels"):
        assert sum(part in line for line in listed) == 1

    text, ok = check_dataset(parts, layout="mvtec_ad", decode=True)
    assert not ok
    assert text.count("problem: ") == 5
    assert f"problem: {train / '000.png'}: damaged or truncated" in text
    assert f"remark: {mask}: the mask of a defective image is empty" in text
    assert "no problems" not in text


def test_masks_that_are_worth_a_look(parts: Path) -> None:
    """A defect too small for the training size, and a mask that marks everything."""
    truth = parts / "nut" / "ground_truth"
    dot = np.zeros((32, 40), np.uint8)
    dot[0, 0] = 255
    Image.fromarray(dot).save(truth / "spot" / "000_mask.png")
    Image.new("L", (40, 32), 255).save(truth / "scratch" / "000_mask.png")
    text, ok = check_dataset(parts, decode=True, image_size=(8, 8))
    assert ok
    remarks = [line for line in text.splitlines() if line.startswith("remark: ")]
    assert remarks == [
        f"remark: {truth / 'scratch' / '000_mask.png'}: the mask marks every pixel: is it "
        "inverted?",
        "remark: 1 masks are too small to be seen at 8x8: 'nut/ground_truth/spot/000_mask.png': "
        "one pixel of each is kept; a larger data.image_size shows them",
    ]
    assert "too small" not in check_dataset(parts, decode=True, image_size=(32, 40))[0]
    assert "too small" not in check_dataset(parts, decode=True)[0]


def test_options_of_layouts(tmp_path: Path) -> None:
    (tmp_path / "ok").mkdir()
    for name in "ab":
        Image.new("L", (9, 9)).save(tmp_path / "ok" / f"{name}.png")
    options = {"folder": {"normal": "ok"}, "texture_ad": {"train": "{subclass}/{name}"}}
    text, ok = check_dataset(tmp_path, layout="folder", options=options)
    assert ok
    assert text.startswith("layout folder\n")
    with pytest.raises(InputError, match=r"name it by data\.folder\.normal"):
        check_dataset(tmp_path, layout="folder")
    with pytest.raises(InputError, match=r"name it by data\.layout, or by --layout of `jaxad data"):
        check_dataset(tmp_path, options=options)


def test_one_row_of_many_pixels(parts: Path) -> None:
    """What can not be resized is told by the headers already."""
    row = parts / "nut" / "train" / "good" / "000.png"
    Image.new("1", (70_000, 1)).save(row)
    for decode in (False, True):
        text, ok = check_dataset(parts, decode=decode)
        assert not ok
        assert f"problem: {row}: 70000x1 pixels has a side longer than 65536" in text


def test_the_list_is_bounded(tmp_path: Path) -> None:
    folder = tmp_path / "c" / "train" / "good"
    folder.mkdir(parents=True)
    for i in range(LIMIT + 5):
        (folder / f"{i}.png").touch()
    text, ok = check_dataset(tmp_path)
    assert not ok
    assert text.count("0 bytes") == LIMIT
    assert text.endswith("problem: and 5 more")


def test_files_outside_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    Image.new("L", (77, 66)).save(tmp_path / "secret.png")
    records = tuple(
        Record(path, "c", "", "train", "good")
        for path in ("../secret.png", str(tmp_path / "secret.png"), "absent.png")
    )
    text, ok = describe(Manifest(tmp_path / "root", records), decode=True)
    assert not ok
    assert "77x66" not in text
    assert "leave this folder" in text
    assert "1 files are missing" in text


def test_subclasses_and_an_empty_dataset(tmp_path: Path) -> None:
    for i in range(3):
        Image.new("RGB", (4 + i, 4)).save(tmp_path / f"{i}.png")
    records = tuple(Record(f"{i}.png", "c", f"s{i % 2}", "train", "good") for i in range(3))
    text, ok = describe(Manifest(tmp_path, records))
    assert ok
    assert "  subclasses: s0 2, s1 1" in text
    text, ok = describe(Manifest(tmp_path, ()))
    assert not ok
    assert "has no images" in text
    with pytest.raises(InputError, match="can not tell the layout"):
        check_dataset(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_real_tiles() -> None:
    text, ok = check_dataset(SHARED / "magnetic_tile")
    assert ok
    assert "tile: train 697 good, calibration 78 good, test 177 good + 392 defective" in text
    assert "  modes: L 1344" in text
