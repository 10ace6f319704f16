"""The photos, masks and weights that both sides of a comparison read."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxad.core import Variables
from jaxad.data.images import decode_image, decode_mask
from jaxad.data.layouts import load_dataset
from jaxad.data.manifest import GOOD, Record
from jaxad.errors import InputError

SIZE = (256, 256)
"""(H, W) of all photos and masks."""
EPSILON = 1e-5
"""Of PyTorch's BatchNorm."""


class Source(NamedTuple):
    """A data set, and which of its photos are taken: every n-th of a split and label."""

    layout: str
    folder: str
    """Below the folder of all data sets."""
    category: str
    train: int = 1
    test: int = 1


class Photos(NamedTuple):
    """A data set as both sides read it: a tree in the manner of MVTec AD."""

    root: Path
    category: str
    train: int
    """How many photos."""
    test: tuple[Path, ...]
    labels: np.ndarray
    """`(N,)` bool of the test photos, True where defective."""
    masks: np.ndarray
    """`(N, H, W)` bool."""


def prepare(source: Source, data: Path, root: Path, *, most: int = 0) -> Photos:
    """Write the photos that are compared on as PNGs of `SIZE`; resized once, for both alike.

    Args:
        source: What is taken.
        data: Folder of all data sets.
        root: Folder to write; made anew.
        most: So many of a split and label at most; 0: all.

    Raises:
        InputError: The data set is not there, or a defective photo has no mask.
    """
    records = load_dataset(
        source.layout, str(data / source.folder), categories=(source.category,)
    ).records
    if root.exists():
        shutil.rmtree(root)
    folder = root / source.category
    places: Counter[tuple[str, str]] = Counter()
    test: list[tuple[Path, bool, np.ndarray]] = []
    trained = 0
    for record in records:
        place = record.split, record.label
        number, every = places[place], source.train if record.split == "train" else source.test
        places[place] += 1
        if number % every or (most and number // every >= most):
            continue
        name = f"{number:04d}"
        path = folder / record.split / record.label / f"{name}.png"
        photo = decode_image(data / source.folder / record.path, size=SIZE)
        _write(path, photo)
        if record.split == "train":
            trained += 1
            continue
        mask = _mask(record, data / source.folder)
        if record.label != GOOD:
            _write(folder / "ground_truth" / record.label / f"{name}_mask.png", mask)
        test.append((path, record.label != GOOD, mask))
    paths, labels, masks = zip(*test)
    return Photos(root, source.category, trained, paths, np.array(labels), np.stack(masks))


def _mask(record: Record, root: Path) -> np.ndarray:
    if record.label == GOOD:
        return np.zeros(SIZE, bool)
    if not record.mask:
        raise InputError(f"{root / record.path} is defective and has no mask: take it away")
    return decode_mask(root / record.mask, size=SIZE)


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels).save(path)


def torch_state(variables: Variables) -> dict[str, np.ndarray]:
    """Name a folded ResNet's arrays as torchvision and timm do, with BatchNorms that do nothing.

    The bias of a convolution becomes that of the BatchNorm behind it, whose mean is 0 and whose
    variance and epsilon add up to 1.

    Args:
        variables: Of `load_backbone`, with bottlenecks or without.

    Returns:
        Array name -> array, kernels OIHW.
    """
    state: dict[str, np.ndarray] = {}

    def walk(tree: Mapping[str, object], scope: tuple[str, ...]) -> None:
        for name, inner in tree.items():
            assert isinstance(inner, Mapping)
            if "conv" in inner and "kernel" in inner["conv"]:
                _convolution(state, (*scope, name), inner["conv"])
            else:
                walk(inner, (*scope, *name.split("_")))

    walk(variables["params"], ())
    return state


def _convolution(
    state: dict[str, np.ndarray], path: tuple[str, ...], arrays: Mapping[str, np.ndarray]
) -> None:
    *scope, name = path
    both = ("0", "1") if name == "downsample" else (name, name.replace("conv", "bn"))
    before = [*scope, name] if name == "downsample" else scope
    conv, norm = (".".join([*before, each]) for each in both)
    bias = np.asarray(arrays["bias"])
    state[f"{conv}.weight"] = np.ascontiguousarray(np.transpose(arrays["kernel"], (3, 2, 0, 1)))
    state[f"{norm}.weight"] = np.ones_like(bias)
    state[f"{norm}.bias"] = bias
    state[f"{norm}.running_mean"] = np.zeros_like(bias)
    state[f"{norm}.running_var"] = np.full_like(bias, 1 - EPSILON)
    state[f"{norm}.num_batches_tracked"] = np.asarray(0)
