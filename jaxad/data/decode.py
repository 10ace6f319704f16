"""A record to pixels: where its image and mask are, and how they are read.

The one place that knows that an image may be a row of a batch, that a mask may be a folder of
several, that a record of joined data has a folder of its own, and that some datasets are read as
stored.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from jaxad.data import images
from jaxad.data.images import Header
from jaxad.data.listing import mask_files
from jaxad.data.manifest import Record
from jaxad.data.members import find_member
from jaxad.errors import InputError


def image_path(root: Path, record: Record) -> Path:
    """Where the image of a record is; `root` is the manifest's."""
    return root / record.root / record.path


def mask_path(root: Path, record: Record) -> Path:
    """Where the mask of a record that has one is: a file, or a folder of several."""
    return root / record.root / record.mask


def mask_paths(root: Path, record: Record) -> list[Path]:
    """List the files that the mask of a record is made of; none where it has no mask."""
    return mask_files(mask_path(root, record)) if record.mask else []


def read_header(root: Path, record: Record) -> Header:
    """Read mode and size of a record's image; raises as `images.read_header`."""
    path = image_path(root, record)
    if member := find_member(path):
        return Header("RGB", member.size)
    return images.read_header(path, upright=not record.as_stored)


def read_mask_headers(root: Path, record: Record) -> list[tuple[Path, Header]]:
    """Read mode and size of each file of a record's mask; raises as `images.read_mask_header`."""
    return [
        (path, images.read_mask_header(path, upright=not record.as_stored))
        for path in mask_paths(root, record)
    ]


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


def read_mask(root: Path, record: Record, *, image_size: tuple[int, int]) -> np.ndarray:
    """Decode the mask of a record that has one at its own size: `(height, width)` bool.

    Where it is a folder of masks, a pixel is marked that any of them marks.

    Args:
      root: The manifest's root.
      record: The record.
      image_size: `(height, width)` of the record's image, which the mask must have too.

    Raises:
      InputError: as `images.read_mask`; a folder without images.
    """
    paths = mask_paths(root, record)
    if not paths:
        raise InputError(f"{mask_path(root, record)}: a folder of masks without one: restore them")
    marked = np.zeros(image_size, np.bool_)
    for path in paths:
        marked |= images.read_mask(
            path,
            image_size=image_size,
            image_path=image_path(root, record),
            upright=not record.as_stored,
        )
    return marked


def decode_mask(
    root: Path, record: Record, *, size: tuple[int, int], image_size: tuple[int, int]
) -> np.ndarray:
    """Decode and resize the mask of a record that has one: `(H, W)` bool.

    See `read_mask` for the arguments, and `images.resize_mask`.
    """
    return images.resize_mask(read_mask(root, record, image_size=image_size), size)


def half_covered(root: Path, record: Record, *, size: tuple[int, int]) -> np.ndarray:
    """Decode the mask of a record that has one as other codes do: `(H, W)` bool.

    Resized bilinearly, antialiased where it shrinks, and binarised above one half: what RD4AD and
    ADer measure by. See `read_mask` for errors.
    """
    height, width = size
    marked = read_mask(root, record, image_size=read_header(root, record).size)
    grey = Image.fromarray(marked.astype(np.uint8) * 255)
    return np.asarray(grey.resize((width, height), Image.Resampling.BILINEAR)) > 127
