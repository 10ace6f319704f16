"""Layout `visa`: the VisA dataset, as its archive holds it or as its own script prepares it.

Y. Zou et al., "SPot-the-Difference Self-Supervised Pre-training for Anomaly Detection and
Segmentation", ECCV 2022. Twelve objects; the one-class split has 8,659 normal images in train, 962
normal and 1,200 anomalous ones in test.

- Raw: `<root>/<object>/Data/Images/{Normal,Anomaly}/NNN.JPG`, `Data/Masks/Anomaly/NNN.png`, and
  `<root>/split_csv/1cls.csv`, which says what is train and what is test. The masks' values are the
  kinds of defect, 1 to 9, and look black.
- Prepared by `prepare_data.py --split-type 1cls`: `<root>/[1cls/]<object>/{train/good, test/good,
  test/bad, ground_truth/bad}` with masks of 0 and 255 and of the image's own stem.

Both give the same records but for the paths. Photos and masks are read as stored, without their
EXIF orientation, because the dataset's own tools read them so: a mask lies on the stored pixels.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from jaxad.data.confine import leaves
from jaxad.data.layouts import mvtec_ad
from jaxad.data.listing import folders
from jaxad.data.manifest import GOOD, Manifest, Record, some
from jaxad.data.table import read_table
from jaxad.errors import InputError

DEFECT = "anomaly"
"""The label of every defective image; the split knows no kinds."""
_COLUMNS = ("object", "split", "label", "image", "mask")
_SPLITS = ("train", "test")
_TABLE = "split_csv/1cls.csv"
_ONE_CLASS, _TWO_CLASSES = "1cls", ("2cls_highshot", "2cls_fewshot")


def scan(root: str | os.PathLike[str]) -> Manifest:
    """List the images of the one-class split, category = object.

    Raises:
      InputError: neither form is there, the tree is prepared for another split or lacks masks,
        or a row of `1cls.csv` is not in its form, leads out of the root, or pairs an image with
        the mask of another.
    """
    root = Path(root)
    if (root / _TABLE).is_file():
        return _raw(root)
    for folder in (root, root / _ONE_CLASS):
        prepared = [d for d in folders(folder) if (d / "train" / GOOD).is_dir()]
        if prepared:
            return _prepared(folder, prepared)
    raise InputError(_neither(root))


def looks_so(root: Path) -> bool:
    """Whether a folder holds VisA in either form, as far as names tell."""
    raw = (root / _TABLE).is_file() or any(root.glob("*/Data/Images/Normal"))
    return raw or any(root.glob(f"{_ONE_CLASS}/*/train/{GOOD}"))


def _raw(root: Path) -> Manifest:
    table = root / _TABLE
    rows = read_table(table, _COLUMNS)
    return Manifest(root, tuple(_record(f"{table}: line {line}", *row) for line, row in rows))


def _record(place: str, name: str, split: str, label: str, image: str, mask: str) -> Record:
    anew = "take split_csv/1cls.csv anew from VisA's archive"
    if split not in _SPLITS or label not in ("normal", "anomaly") or not name or not image:
        raise InputError(f"{place} is not `object,split,label,image,mask` of a 1cls split: {anew}")
    for path in (image, mask):
        if leaves(path):
            raise InputError(f"{place} names {path!r}, which is not within the dataset: {anew}")
    if bool(mask) != (label == "anomaly"):
        wrong = "the normal image {!r} a mask" if mask else "the anomalous image {!r} no mask"
        raise InputError(f"{place} gives {wrong.format(image)}: {anew}")
    if mask and PurePosixPath(mask).stem != PurePosixPath(image).stem:
        raise InputError(f"{place} pairs {image!r} with the mask {mask!r} of another: {anew}")
    return Record(
        path=image,
        category=name,
        subclass="",
        split=split,
        label=GOOD if label == "normal" else DEFECT,
        mask=mask,
        as_stored=True,
    )


def _prepared(folder: Path, objects: list[Path]) -> Manifest:
    other = [d for d in objects if (d / "train" / "bad").is_dir()]
    if other:
        raise InputError(
            f"{other[0] / 'train' / 'bad'}: prepared for a two-class split: run VisA's "
            "prepare_data.py with --split-type 1cls"
        )
    records = mvtec_ad.scan(folder).records
    maskless = [r.path for r in records if not r.is_good and not r.mask]
    if maskless:
        raise InputError(
            f"{folder}: {len(maskless)} anomalous images have no mask in ground_truth/bad: "
            f"{some(maskless)}: run VisA's prepare_data.py again"
        )
    return Manifest(
        folder,
        tuple(
            r._replace(label=DEFECT if r.label == "bad" else r.label, as_stored=True)
            for r in records
        ),
    )


def _neither(root: Path) -> str:
    if any((d / "Data" / "Images").is_dir() for d in folders(root)):
        return f"{root}: has no {_TABLE}, which says what is train: take it from VisA's archive"
    if (root / "Data" / "Images").is_dir() or (root / "train" / GOOD).is_dir():
        return f"{root}: this is one object: set data.root to the folder above it"
    other = next((name for name in _TWO_CLASSES if (root / name).is_dir()), None)
    if other:
        return (
            f"{root / other}: prepared for a two-class split: run VisA's prepare_data.py with "
            "--split-type 1cls"
        )
    for deeper in folders(root):
        if looks_so(deeper) or any(deeper.glob(f"*/train/{GOOD}")):
            return f"{root}: the dataset is one level deeper: set data.root to {deeper}"
    return (
        f"{root}: neither {_TABLE} and <object>/Data/Images nor <object>/train/good is here: set "
        "data.root to VisA"
    )
