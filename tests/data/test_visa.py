"""VisA in both of its forms, generated small, and every trap of its files."""

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxad.data.check import check_dataset, require_readable
from jaxad.data.layouts import load_dataset
from jaxad.data.manifest import Manifest, write_csv
from jaxad.data.pipeline import batches
from jaxad.errors import InputError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
OBJECTS = {"candle": (6, 2, 3), "pcb1": (4, 1, 2)}  # train, normal test, anomalous test
SIZE = (40, 56)  # not square
HEADER = "object,split,label,image,mask"
ORIENTATION = 0x0112


def marked(number: int) -> np.ndarray:
    """The kinds of defects of one image: values 1 to 9 in a box off the centre."""
    kinds = np.zeros(SIZE, np.uint8)
    kinds[4:20, 8:24] = 1 + number % 9
    kinds[24:30, 4:12] = 9
    return kinds


def save_photo(path: Path, bright: np.ndarray, orientation: int = 1) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    pixels = np.where(bright[..., None] > 0, 220, 30).astype(np.uint8).repeat(3, axis=2)
    Image.fromarray(pixels).save(path, "JPEG", quality=95, exif=exif)


def write_raw(root: Path, orientation: int = 1) -> list[list[str]]:
    """Write the tree of the archive; returns the rows of its table."""
    rows = []
    for name, (train, normal, anomalous) in OBJECTS.items():
        for folder in ("Images/Normal", "Images/Anomaly", "Masks/Anomaly"):
            (root / name / "Data" / folder).mkdir(parents=True)
        for i in range(train + normal):
            path = f"{name}/Data/Images/Normal/{i:04}.JPG"
            save_photo(root / path, np.zeros(SIZE), orientation)
            rows.append([name, "train" if i < train else "test", "normal", path, ""])
        for i in range(anomalous):
            path = f"{name}/Data/Images/Anomaly/{i:03}.JPG"
            mask = f"{name}/Data/Masks/Anomaly/{i:03}.png"
            save_photo(root / path, marked(i), orientation)
            Image.fromarray(marked(i)).save(root / mask)
            rows.append([name, "test", "anomaly", path, mask])
        (root / name / "image_anno.csv").write_text("image,label,mask\n")
        # What unpacking on Windows leaves behind.
        (root / name / "Data/Images/Normal/0000.JPG:Zone.Identifier").touch()
    write_table(root, rows)
    return rows


def write_table(root: Path, rows: list[list[str]], header: str = HEADER) -> None:
    (root / "split_csv").mkdir(exist_ok=True)
    with (root / "split_csv" / "1cls.csv").open("w", newline="") as file:
        file.write(header + "\r\n")
        csv.writer(file).writerows(rows)


def prepare(raw: Path, to: Path, rows: list[list[str]]) -> None:
    """Do what the dataset's own script does for its one-class split."""
    for name, split, label, image, mask in rows:
        label = {"normal": "good", "anomaly": "bad"}[label]
        target = to / "1cls" / name / split / label / Path(image).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(raw / image, target)
        if mask:
            target = to / "1cls" / name / "ground_truth" / label / Path(mask).name
            target.parent.mkdir(parents=True, exist_ok=True)
            values = np.array(Image.open(raw / mask))
            values[values != 0] = 255
            Image.fromarray(values).save(target)


def refusal(root: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        require_readable(load_dataset("visa", root, **options))
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_both_forms_give_the_same_records_and_pixels(tmp_path: Path) -> None:
    raw, prepared = tmp_path / "VisA", tmp_path / "visa_pytorch"
    prepare(raw, prepared, write_raw(raw))
    first, second = load_dataset("visa", raw), load_dataset("visa", prepared)
    assert second.root == prepared / "1cls"
    assert load_dataset("visa", prepared / "1cls") == second
    for manifest in (first, second):
        require_readable(manifest)
        assert manifest.counts() == {
            ("candle", "test", "anomaly"): 3,
            ("candle", "test", "good"): 2,
            ("candle", "train", "good"): 6,
            ("pcb1", "test", "anomaly"): 2,
            ("pcb1", "test", "good"): 1,
            ("pcb1", "train", "good"): 4,
        }
        assert all(bool(r.mask) != r.is_good for r in manifest.records)
        assert {Path(r.path).suffix for r in manifest.records} == {".JPG"}
        assert all(Path(r.mask).stem == Path(r.path).stem for r in manifest.records if r.mask)
    found = []
    for manifest in (first, second):
        chosen = sorted(manifest.select(split="test").records, key=lambda r: (r[1], r[0][-7:]))
        part = Manifest(manifest.root, tuple(chosen))
        found.append(next(iter(batches(part, image_size=SIZE, batch_size=8))))
        assert load_dataset("visa", manifest.root, categories="pcb1").categories == ("pcb1",)
    for field in found[0]:
        np.testing.assert_array_equal(found[0][field], found[1][field])
    for kinds, image, mask in zip(
        (marked(i) for i in (0, 1, 2)), found[0]["image"][:3], found[0]["mask"]
    ):
        np.testing.assert_array_equal(mask, kinds > 0)  # values 1 to 9 count
        assert image[mask].min() > 150
        assert image[~mask].max() < 100


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["raw", "prepared"])
def test_masks_lie_on_photos_that_have_an_exif_orientation(
    tmp_path: Path, orientation: int, form: str
) -> None:
    rows = write_raw(tmp_path / "raw", orientation)
    if form == "prepared":
        prepare(tmp_path / "raw", tmp_path / "prepared", rows)
    manifest = load_dataset("visa", tmp_path / form, categories="pcb1")
    require_readable(manifest)
    text, ok = check_dataset(tmp_path / form, layout="visa", decode=True)
    assert ok, text
    assert "56x40" in text
    batch = next(iter(batches(manifest.select(split="test"), image_size=SIZE, batch_size=3)))
    for image, mask, label in zip(batch["image"], batch["mask"], batch["label"]):
        assert mask.any() == label
        assert not mask.any() or image[mask].min() > 150
        assert image[~mask].max() < 100


def test_other_layouts_turn_photos_upright(tmp_path: Path) -> None:
    """The rule that VisA is the exception to: a mask belongs to the photo as viewers show it."""
    for folder, kinds in {"train/good": np.zeros(SIZE), "test/cut": marked(0)}.items():
        (tmp_path / "nut" / folder).mkdir(parents=True)
        save_photo(tmp_path / "nut" / folder / "0.JPG", kinds, orientation=6)
    masks = tmp_path / "nut" / "ground_truth" / "cut"
    masks.mkdir(parents=True)
    Image.fromarray(marked(0)).save(masks / "0.png")
    manifest = load_dataset("mvtec_ad", tmp_path)
    with pytest.raises(InputError, match=r"56x40 pixels but its image .* is 40x56.*EXIF"):
        require_readable(manifest)
    Image.fromarray(np.rot90(marked(0), -1)).save(masks / "0.png")
    require_readable(manifest)
    test = manifest.select(split="test")
    batch = next(iter(batches(test, image_size=SIZE[::-1], batch_size=1)))
    assert batch["image"][batch["mask"]].min() > 150
    assert batch["image"][~batch["mask"]].max() < 100


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    write_raw(tmp_path)
    mask = tmp_path / "pcb1" / "Data" / "Masks" / "Anomaly" / "001.png"
    Image.fromarray(marked(0).T.copy()).save(mask)
    message = refusal(tmp_path)
    assert message.startswith(f"{mask}: the mask is 40x56 pixels but its image")
    assert "EXIF" not in message  # it is passed over here


def test_masks_with_a_palette_that_has_no_colours(tmp_path: Path) -> None:
    write_raw(tmp_path)
    for i, palette in enumerate(([0, 0, 0], [0, 0, 0, 255, 0, 0], [0, 0, 0] * 10)):
        mask = Image.frombytes("P", SIZE[::-1], marked(i).tobytes())
        mask.putpalette(palette)
        mask.save(tmp_path / "candle" / "Data" / "Masks" / "Anomaly" / f"{i:03}.png")
    test = load_dataset("visa", tmp_path, categories="candle").select(split="test")
    batch = next(iter(batches(test, image_size=SIZE, batch_size=5)))
    assert batch["label"].sum() == 3
    for i, mask in enumerate(batch["mask"][batch["label"] == 1]):
        np.testing.assert_array_equal(mask, marked(i) > 0)


def test_missing_files(tmp_path: Path) -> None:
    raw, prepared = tmp_path / "raw", tmp_path / "prepared"
    prepare(raw, prepared, write_raw(raw))
    (prepared / "1cls/candle/ground_truth/bad/001.png").unlink()
    message = refusal(prepared)
    assert message.startswith(f"{prepared / '1cls'}: 1 anomalous images have no mask")
    assert "'candle/test/bad/001.JPG': run VisA's prepare_data.py again" in message
    (raw / "pcb1/Data/Masks/Anomaly/000.png").unlink()
    (raw / "pcb1/Data/Images/Normal/0001.JPG").unlink()
    assert "2 files are missing: 'pcb1/Data/Images/Normal/0001.JPG', 'pcb1/Data/Mas" in refusal(raw)
    assert load_dataset("visa", raw, categories="candle").categories == ("candle",)
    # Suffixes are as the table has them.
    photo = raw / "candle/Data/Images/Normal/0002.JPG"
    photo.rename(photo.with_suffix(".jpg"))
    if not photo.is_file():
        assert "1 files are missing" in refusal(raw, categories="candle")


NORMAL = ["candle", "train", "normal", "candle/Data/Images/Normal/0000.JPG", ""]
ANOMALY = ["candle", "test", "anomaly", "candle/Data/Images/Anomaly/000.JPG"]
MASK = "candle/Data/Masks/Anomaly/"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([*NORMAL[:3], "../outside.JPG", ""], "names '../outside.JPG', which is not within"),
        ([*NORMAL[:3], "/etc/passwd", ""], "names '/etc/passwd', which is not within"),
        ([*NORMAL[:3], "C:\\x.JPG", ""], "which is not within"),
        ([*ANOMALY, "candle/../../000.png"], "which is not within"),
        ([*ANOMALY, MASK + "001.png"], "with the mask 'candle/Data/Masks/Anomaly/001.png' of an"),
        ([*ANOMALY, ""], "gives the anomalous image 'candle/Data/Images/Anomaly/000.JPG' no mask"),
        ([*NORMAL[:4], MASK + "0000.png"], "gives the normal image"),
        ([*NORMAL[:2], "good", *NORMAL[3:]], "is not `object,split,label,image,mask`"),
        (["candle", "val", *NORMAL[2:]], "is not `object,split,label,image,mask`"),
        (["", *NORMAL[1:]], "is not `object,split,label,image,mask`"),
        (NORMAL[:4], "has 4 fields where the header has 5"),
    ],
)
def test_rows_of_another_form_are_named(tmp_path: Path, row: list[str], expected: str) -> None:
    rows = write_raw(tmp_path)
    (tmp_path.parent / "outside.JPG").touch()
    write_table(tmp_path, [*rows, row])
    message = refusal(tmp_path)
    assert f"1cls.csv: line {len(rows) + 2}" in message
    assert expected in message
    (tmp_path.parent / "outside.JPG").unlink()


def test_tables_of_another_form(tmp_path: Path) -> None:
    rows = write_raw(tmp_path)
    write_table(tmp_path, rows, header="object,set,label,image,mask")
    assert "the header has no column split" in refusal(tmp_path)
    write_table(tmp_path, rows + rows[:1])
    assert "listed more than once" in refusal(tmp_path)
    write_table(tmp_path, [[r[0], "train", *r[2:]] for r in rows])
    assert "5 defective images in train" in refusal(tmp_path)  # a two-class table
    write_table(tmp_path, rows, header="\ufeff" + HEADER + ",note")
    assert "has 5 fields where the header has 6" in refusal(tmp_path)
    (tmp_path / "split_csv" / "1cls.csv").unlink()
    assert "has no split_csv/1cls.csv, which says what is train" in refusal(tmp_path)


def test_links_that_leave_the_tree(tmp_path: Path) -> None:
    write_raw(tmp_path / "raw")
    photo = tmp_path / "raw/candle/Data/Images/Normal/0000.JPG"
    photo.rename(tmp_path / "outside.JPG")
    photo.symlink_to(tmp_path / "outside.JPG")
    assert "links that leave this folder" in refusal(tmp_path / "raw")


def test_roots_that_are_off(tmp_path: Path) -> None:
    raw, prepared = tmp_path / "raw" / "VisA", tmp_path / "prepared" / "visa_pytorch"
    prepare(raw, prepared, write_raw(raw))
    assert f"one level deeper: set data.root to {raw}" in refusal(tmp_path / "raw")
    assert f"one level deeper: set data.root to {prepared}" in refusal(tmp_path / "prepared")
    assert "this is one object" in refusal(raw / "candle")
    assert "this is one object" in refusal(prepared / "1cls" / "candle")
    (tmp_path / "empty").mkdir()
    assert "set data.root to VisA" in refusal(tmp_path / "empty")
    (prepared / "1cls").rename(prepared / "2cls_fewshot")
    assert "two-class split: run VisA's prepare_data.py with --split-type 1cls" in refusal(prepared)
    (prepared / "2cls_fewshot").rename(prepared / "1cls")
    (prepared / "1cls" / "pcb1" / "train" / "bad").mkdir()
    assert "pcb1/train/bad: prepared for a two-class split" in refusal(prepared)


def test_it_is_not_written_as_a_manifest(tmp_path: Path) -> None:
    """CSV can not say that the pixels are to be read as stored."""
    write_raw(tmp_path)
    with pytest.raises(InputError, match="can not be written as CSV"):
        write_csv(load_dataset("visa", tmp_path), tmp_path / "manifest.csv")


@pytest.mark.parametrize("form", ["visa", "visa_pytorch"])
def test_the_real_dataset(form: str) -> None:
    if not (SHARED / form).is_dir():
        pytest.skip(f"../shared/data/{form} is not here")
    manifest = load_dataset("visa", SHARED / form)
    assert len(manifest) == 10_821
    assert Counter((r.split, r.label) for r in manifest.records) == {
        ("train", "good"): 8_659,
        ("test", "good"): 962,
        ("test", "anomaly"): 1_200,
    }
    assert sum(bool(r.mask) for r in manifest.records) == 1_200
    train = Counter(r.category for r in manifest.select(split="train").records)
    assert train == {
        "candle": 900,
        "capsules": 542,
        "cashew": 450,
        "chewinggum": 453,
        "fryum": 450,
        "macaroni1": 900,
        "macaroni2": 900,
        "pcb1": 904,
        "pcb2": 901,
        "pcb3": 905,
        "pcb4": 904,
        "pipe_fryum": 450,
    }
