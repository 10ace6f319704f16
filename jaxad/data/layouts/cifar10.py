"""Layout `cifar10`: CIFAR-10 as a benchmark of one detector for five classes of normal images.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; the settings are those
of UniAD (You et al., NeurIPS 2022) and of AFRAD's Table 3. In each, five of the ten classes are
normal: train = all training images of these, test = all test images, defective where of another
class. There are no masks.

Read in place, from either

- the python format: `<root>/[cifar-10-batches-py/]{data_batch_1, ..., data_batch_5, test_batch}`
  and `batches.meta` with the names of the classes; or
- a folder of tensorflow_datasets that holds cifar10 prepared as array_record.
"""

from __future__ import annotations

import os
from pathlib import Path

from jaxad.data.manifest import GOOD, Manifest, Record
from jaxad.data.members import read_class_names, read_labels
from jaxad.data.pickled_arrays import read_pickled_arrays
from jaxad.errors import InputError

SETTINGS = ("01234", "56789", "02468", "13579")
"""The categories: the digits of the classes that are normal."""
_CLASSES = ["airplane", "automobile", "bird", "cat", "deer"]
_CLASSES += ["dog", "frog", "horse", "ship", "truck"]
_TEST, _META, _FOLDER = "test_batch", "batches.meta", "cifar-10-batches-py"


def scan(root: str | os.PathLike[str]) -> Manifest:
    """List all images once for each of the four settings, category = setting.

    The subclass of an image is its class; so is the label of a defective one.

    Raises:
      InputError: neither form is there, a file is missing or can not be read.
    """
    root = Path(root)
    folder = next((d for d in (root, root / _FOLDER) if (d / _TEST).is_file()), None)
    if folder is not None:
        train, test, classes = *_batches(folder), _class_names(folder / _META)
    elif folder := _tfds_folder(root):
        train, test = [folder / "train"], [folder / "test"]
        classes = read_class_names(folder / "train")
    else:
        raise InputError(_neither(root))
    images = [
        (f"{container.name}/{number}", split, label)
        for split, containers in (("train", train), ("test", test))
        for container in containers
        for number, label in enumerate(read_labels(container))
    ]
    if len(classes) != 10 or any(not 0 <= label <= 9 for _, _, label in images):
        raise InputError(f"{folder}: has not ten classes: set data.root to CIFAR-10")
    records = [
        Record(path, setting, classes[label], split, GOOD if normal else classes[label])
        for setting in SETTINGS
        for path, split, label in images
        if (normal := str(label) in setting) or split == "test"
    ]
    return Manifest(folder, tuple(records))


def looks_so(root: Path) -> bool:
    """Whether a folder holds CIFAR-10 in either form, as far as names tell."""
    batches = any((d / _TEST).is_file() for d in (root, root / _FOLDER))
    return batches or _tfds_folder(root) is not None


def _batches(folder: Path) -> tuple[list[Path], list[Path]]:
    there = [n for n in range(1, 6) if (folder / f"data_batch_{n}").is_file()]
    # Subsets have fewer; a gap is an incomplete copy.
    missing = [n for n in range(1, max(there, default=1)) if n not in there] or (
        [] if there else [1]
    )
    if missing:
        raise InputError(
            f"{folder / f'data_batch_{missing[0]}'}: no such file: unpack cifar-10-python.tar.gz "
            "anew"
        )
    return [folder / f"data_batch_{n}" for n in there], [folder / _TEST]


def _class_names(meta: Path) -> list[str]:
    if not meta.is_file():
        return _CLASSES
    names = read_pickled_arrays(meta, ("label_names",)).get("label_names")
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{meta}: its entry 'label_names' is no list of names: unpack it anew")
    return names


def _tfds_folder(root: Path) -> Path | None:
    """Find `cifar10/VERSION` at, in or below `root`; the highest version of several."""
    for folder in (root, root / "cifar10"):
        if folder.name == "cifar10":
            prepared = sorted(p.parent for p in folder.glob("*/dataset_info.json"))
            if prepared:
                return prepared[-1]
    at_version = root.parent.name == "cifar10" and (root / "dataset_info.json").is_file()
    return root if at_version else None


def _neither(root: Path) -> str:
    if any(root.glob("data_batch_*")) and not any(root.glob("*.bin")):
        return f"{root / _TEST}: no such file: unpack cifar-10-python.tar.gz anew"
    if any(root.glob("*.bin")) or any(root.glob("*.mat")):
        return f"{root}: the binary or Matlab version of CIFAR-10: get the python version instead"
    return (
        f"{root}: holds neither {_FOLDER} nor cifar10 of tensorflow_datasets: unpack "
        "cifar-10-python.tar.gz there"
    )
