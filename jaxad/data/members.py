"""Images that are not files of their own: rows of a CIFAR batch, examples of a tfds split.

A record names one as `CONTAINER/NUMBER`, e.g. `test_batch/17`, counted from 0. That is a path below
a file, which no file can have, so it is never mistaken for one, lies within a root where its
container does, and can be written down in a manifest. A container is

- a file `NAME`: a batch in CIFAR-10's python format (see `jaxad.data.pickled_arrays`);
- a name `train`, `calibration` or `test` that is no folder, beside a `dataset_info.json`: a split
  of a dataset that tensorflow_datasets has prepared as array_record. Nothing is ever downloaded.

Containers are read in place and kept open by the process that reads them.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxad.data.pickled_arrays import read_pickled_arrays
from jaxad.errors import InputError

SIDE = 32
"""Height and width of CIFAR's images, pixels."""
_INFO = "dataset_info.json"


class Container(NamedTuple):
    """What is in a container."""

    examples: Any
    """A sequence of `N`: arrays `(H, W, 3)` uint8, or dicts that hold one as "image"."""
    size: tuple[int, int]
    """`(height, width)` of every image."""
    labels: np.ndarray[Any, Any]
    """`(N,)` int; empty for a tfds split, whose examples hold their own."""


class Member(NamedTuple):
    """One image of a container."""

    path: Path
    container: Container
    number: int

    @property
    def size(self) -> tuple[int, int]:
        """`(height, width)`, known without decoding."""
        return self.container.size

    def read(self) -> np.ndarray[Any, Any]:
        """Read the image: `(H, W, 3)` uint8 RGB.

        Raises:
          InputError: it is damaged.
        """
        try:
            example = self.container.examples[self.number]
            return np.asarray(example["image"] if isinstance(example, dict) else example)
        except Exception as error:  # whatever damage leads array_record and Pillow into
            raise InputError(
                f"{self.path}: damaged example ({type(error).__name__}): prepare the dataset anew"
            ) from error


def is_number(name: str) -> bool:
    """Whether the last part of a path may be the number of a member."""
    return name.isascii() and name.isdigit() and len(name) < 10


def is_container(path: Path) -> bool:
    """Whether a path is a file, whose members may be images, or a split of tfds."""
    return path.is_file() or _is_split(path)


def file_finder() -> Callable[[Path], Path]:
    """Make a function that names the file that an image is in: its own, or its container.

    It keeps what it has learnt of containers, so use one for many images, and not for longer than
    the files stay as they are.
    """
    known: dict[Path, bool] = {}

    def file_of(image: Path) -> Path:
        container = image.parent
        if not is_number(image.name):
            return image
        if container not in known:
            known[container] = is_container(container)
        return container if known[container] else image

    return file_of


def find_member(path: Path) -> Member | None:
    """Find the image that a path names within a container; None where it is an ordinary path.

    Raises:
      InputError: the container can not be read or has no such member; see `open_container`.
    """
    if not is_number(path.name) or not is_container(path.parent):
        return None
    container, number = open_container(path.parent), int(path.name)
    if number >= len(container.examples):
        raise InputError(
            f"{path}: there are only {len(container.examples)} images in {path.parent}, counted "
            "from 0: correct the record"
        )
    return Member(path, container, number)


def open_container(path: Path) -> Container:
    """Read a batch or open a split.

    The last few stay open, for a record names one image and a batch can only be read whole. A file
    that changes is read anew.

    Raises:
      InputError: see `read_pickled_arrays`; a batch that does not hold images of 32 x 32 pixels
        and a label for each; a split that tfds can not read.
    """
    try:
        stamp = container_stamp(path)
    except OSError as error:
        raise InputError(f"{path}: can not be read ({error.strerror})") from None
    opened = _open_split if _is_split(path) else _open_batch
    return opened(str(path), stamp)


def container_stamp(path: Path) -> tuple[int, int]:
    """Time and size of the file that tells whether a container has changed; raises OSError."""
    stat = (path.with_name(_INFO) if _is_split(path) else path).stat()
    return stat.st_mtime_ns, stat.st_size


def read_labels(path: Path) -> list[int]:
    """List the labels of a container's images; raises as `open_container`."""
    if not _is_split(path):
        return open_container(path).labels.tolist()
    without_pixels = {"image": _tfds(path).decode.SkipDecoding()}
    builder = _builder(path)
    try:
        source = builder.as_data_source(split=path.name, decoders=without_pixels)
        return [int(example["label"]) for example in source]
    except Exception as error:  # whatever damaged files lead array_record into
        raise InputError(
            f"{path}: damaged examples ({type(error).__name__}): prepare the dataset anew"
        ) from error


def read_class_names(split: Path) -> list[str]:
    """List the names of a tfds dataset's labels; raises as `open_container`."""
    return list(_builder(split).info.features["label"].names)


def _is_split(path: Path) -> bool:
    named = path.name in ("train", "calibration", "test")
    return named and path.with_name(_INFO).is_file() and not path.exists()


# Memos of what files hold, by name, time and size: a batch is 30 MiB and takes 0.1 s to read.
@functools.lru_cache(maxsize=8)
def _open_batch(path: str, stamp: tuple[int, int]) -> Container:
    del stamp
    batch = read_pickled_arrays(Path(path), ("data", "labels"))
    data, labels = batch.get("data"), batch.get("labels")
    if not isinstance(data, np.ndarray) or data.shape[1:] != (3 * SIDE * SIDE,):
        raise InputError(
            f"{path}: its entry 'data' is not N x {3 * SIDE * SIDE} bytes: this is no batch of "
            "CIFAR-10 in python format"
        )
    if isinstance(labels, np.ndarray):
        labels = labels.ravel().tolist()
    if not isinstance(labels, list) or len(labels) != len(data):
        raise InputError(f"{path}: its entry 'labels' is not a number for each of {len(data)} rows")
    if not all(isinstance(label, int) and 0 <= label <= 9 for label in labels):
        raise InputError(f"{path}: its labels are not numbers from 0 to 9: unpack CIFAR-10 anew")
    images = data.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return Container(images, (SIDE, SIDE), np.asarray(labels, np.int64))


@functools.lru_cache(maxsize=8)
def _open_split(path: str, stamp: tuple[int, int]) -> Container:
    del stamp
    builder = _builder(Path(path))
    height, width, _ = builder.info.features["image"].shape
    source = builder.as_data_source(split=Path(path).name)
    return Container(source, (height, width), np.zeros(0, np.int64))


def _builder(split: Path) -> Any:
    folder = split.parent
    try:
        refuse_foreign = functools.partial(_refuse_foreign, folder)
        json.loads((folder / "features.json").read_text(), object_pairs_hook=refuse_foreign)
        builder = _tfds(split).builder_from_directory(folder)
        features, splits = builder.info.features, builder.info.splits
        _, _, channels = features["image"].shape
        names, file_format = features["label"].names, builder.info.file_format.value
        files = splits[split.name].filepaths if split.name in splits else []
    except InputError:
        raise
    except Exception as error:  # whatever a damaged dataset_info.json leads tfds into
        raise InputError(
            f"{folder}: not read as a tfds dataset of images and labels ({type(error).__name__}): "
            "prepare it anew"
        ) from error
    if not files or channels != 3 or not names:
        raise InputError(f"{folder}: has no split {split.name!r} of colour images: prepare it anew")
    real = Path(os.path.realpath(folder))
    if not all(Path(os.path.realpath(file)).is_relative_to(real) for file in files):
        raise InputError(f"{folder}: its {_INFO} names files elsewhere: prepare it anew")
    if file_format != "array_record":
        raise InputError(
            f"{folder}: prepared as {file_format}, which needs tensorflow to read: prepare it with "
            "file_format='array_record'"
        )
    return builder


def _refuse_foreign(folder: Path, entries: list[tuple[str, Any]]) -> None:
    """Refuse classes of features that are not tfds's own, for tfds would import them."""
    for key, value in entries:
        own = isinstance(value, str) and value.startswith("tensorflow_datasets.")
        if key in ("type", "pythonClassName", "python_class_name") and not own:
            raise InputError(
                f"{folder}: features.json asks for {str(value)[:100]!a}, which is not of tfds: "
                "prepare it anew"
            )


def _tfds(path: Path) -> Any:
    try:
        import tensorflow_datasets as tfds  # a second to import, so only where it is wanted
    except ImportError:
        raise InputError(
            f"{path}: a tfds dataset, but the package is absent: pip install tensorflow-datasets"
        ) from None
    return tfds
