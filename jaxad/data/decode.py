"""A record to pixels: where its image and mask are, and how they are read.

The one place that knows that an image may be a row of a batch, that a record of joined data has a
folder of its own, and that some datasets are read as stored.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from jaxad.data import images
from jaxad.data.images import Header
from jaxad.data.manifest import Record
from jaxad.data.members import find_member


def image_path(root: Path, record: Record) -> Path:
    """Where the image of a record is; `root` is the manifest's."""
    return root / record.root / record.path


def mask_path(root: Path, record: Record) -> Path:
    """Where the mask of a record that has one is."""
    return root / record.root / record.mask


def read_header(root: Path, record: Record) -> Header:
    """Read mode and size of a record's image; raises as `images.read_header`."""
    path = image_path(root, record)
    if member := find_member(path):
        return Header("RGB", member.size)
    return images.read_header(path, upright=not record.as_stored)


def read_mask_header(root: Path, record: Record) -> Header:
    """Read mode and size of a record's mask; raises as `images.read_mask_header`."""
    return images.read_mask_header(mask_path(root, record), upright=not record.as_stored)


def read_image(root: Path, record: Record) -> Image.Image:
    """Decode a record's image to a Pillow image of mode "L" or "RGB"; see `images.read_image`."""
    path = image_path(root, record)
    if member := find_member(path):
        return Image.fromarray(member.read())
    return images.read_image(path, upright=not record.as_stored)


def decode_image(
    root: Path, record: Record, *, size: tuple[int, int], resample: str = "lanczos"
) -> np.ndarray:
    """Decode and resize a record's image: `(H, W, 3)` uint8 RGB; see `images.decode_image`."""
    return images.to_array(read_image(root, record), size=size, resample=resample)


def decode_mask(
    root: Path, record: Record, *, size: tuple[int, int], image_size: tuple[int, int]
) -> np.ndarray:
    """Decode and resize the mask of a record that has one: `(H, W)` bool; `images.decode_mask`.

    Args:
      root: The manifest's root.
      record: The record.
      size: `(H, W)` wanted.
      image_size: `(height, width)` of the record's image, which the mask must have too.
    """
    return images.decode_mask(
        mask_path(root, record),
        size=size,
        image_size=image_size,
        image_path=image_path(root, record),
        upright=not record.as_stored,
    )
