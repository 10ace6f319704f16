"""Image and mask files to arrays, with every unusable file refused in one line.

Decisions, the same for every layout:

- Formats: PNG, JPEG, BMP and TIFF (its first page). The file's name says that it is an image, its
  first bytes say of which format.
- Damage: the checksums of a PNG are compared before it is decoded (about 1 % of the time that this
  takes). JPEG and BMP have none, so there only what breaks the decoder is noticed.
- Colour: everything with 8 bits a channel (or fewer) becomes RGB. Alpha is dropped, not blended;
  ICC profiles are ignored.
- 16 bit, 32 bit and float images are refused: how their values map to 0..255 is the user's to say.
- A photo is turned upright by its EXIF orientation, as every viewer and report shows it, and so its
  mask belongs to the upright photo. `upright=False`: both as stored, for datasets made that way.
- Pixels are resized with Pillow's filters (antialiased when shrinking, rounded to uint8), which is
  what the published recipes did.
- Memory: at most about 9 bytes for every pixel of the file, whatever its mode: 600 MB by default.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from jaxad.data.image_file import MAX_PIXELS, Held, is_deep, opened, orientation_of, upright_size
from jaxad.errors import InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff"})
"""File name endings (compared in lower case) that layouts take for images."""

FILTERS: dict[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_STRIP = 1024 * 1024
"""Pixels of a mask that are looked at at a time."""

_EIGHT_BIT = frozenset(
    {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
)
_MASK_MODES = _EIGHT_BIT | {"I", "F", "I;16", "I;16L", "I;16B", "I;16N"}


class Header(NamedTuple):
    """What a file says of itself before its pixels are decoded."""

    mode: str
    """Pillow's mode, e.g. "L" or "RGB"."""
    size: tuple[int, int]
    """`(height, width)` of the upright image."""


def read_header(
    path: str | PathLike[str], *, upright: bool = True, max_pixels: int = MAX_PIXELS
) -> Header:
    """Read mode and size of an image without decoding it.

    Raises:
      InputError: as `decode_image`, except for damage beyond the header.
    """
    with opened(Path(path), max_pixels=max_pixels) as image:
        _refuse_deep_pixels(Path(path), image)
        return Header(image.mode, upright_size(image, upright))


def read_mask_header(
    path: str | PathLike[str], *, upright: bool = True, max_pixels: int = MAX_PIXELS
) -> Header:
    """Read mode and size of a mask without decoding it; see `decode_mask` for what is refused."""
    with opened(Path(path), max_pixels=max_pixels) as image:
        return Header(image.mode, upright_size(image, upright))


def read_image(
    path: str | PathLike[str] | Held, *, upright: bool = True, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode an image at its own size to a Pillow image of mode "L" or "RGB".

    Raises:
      InputError: see `decode_image`.
    """
    path = path if isinstance(path, Held) else Path(path)
    with opened(path, max_pixels=max_pixels, whole=True) as image:
        _refuse_deep_pixels(path, image)
        image.load()
        orientation = orientation_of(image) if upright else 1
        converted = _eight_bit(image)
        if converted is not image:
            converted.info = image.info  # holds the orientation
            image.close()  # its pixels, which are twice in memory by now
        return ImageOps.exif_transpose(converted) if orientation != 1 else converted


def to_array(image: Image.Image, *, size: tuple[int, int], resample: str = "lanczos") -> np.ndarray:
    """Resize an "L" or "RGB" image to `size = (H, W)`: `(H, W, 3)` uint8 RGB.

    Grey images are resized as one channel and then repeated, which gives the same bytes.

    Raises:
      InputError: unknown filter.
    """
    if resample not in FILTERS:
        raise InputError(f"unknown resize filter {resample!r}: use one of {', '.join(FILTERS)}")
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), FILTERS[resample])
    pixels = np.array(image)
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def decode_image(
    path: str | PathLike[str],
    *,
    size: tuple[int, int],
    resample: str = "lanczos",
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decode an image file and resize it to `size = (H, W)`: `(H, W, 3)` uint8 RGB.

    Raises:
      InputError: the file is absent, empty, damaged, no image, has more than `max_pixels` pixels
        or a side longer than `MAX_SIDE` (judged from the header, before decoding) or more than 8
        bits a channel; unknown filter.
    """
    return to_array(read_image(path, max_pixels=max_pixels), size=size, resample=resample)


def decode_mask(
    path: str | PathLike[str],
    *,
    size: tuple[int, int],
    image_size: tuple[int, int] | None = None,
    image_path: str | PathLike[str] = "",
    upright: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decode a mask file and resize it to `size = (H, W)`: `(H, W)` bool.

    See `read_mask` for what counts as marked, and `resize_mask`.

    Raises:
      InputError: unreadable as for images, or not of the image's size.
    """
    marked = read_mask(
        path, image_size=image_size, image_path=image_path, upright=upright, max_pixels=max_pixels
    )
    return resize_mask(marked, size)


def resize_mask(marked: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a mask `(height, width)` bool to `size = (H, W)` by nearest neighbour.

    Where nothing would be left of what is marked, one pixel of it is kept, so that a small defect
    still has a place that can be found or missed.
    """
    found = _nearest(marked, size)
    if found.any() or not marked.any():
        return found
    rows, columns = np.nonzero(marked)
    middle = len(rows) // 2
    row = rows[middle] * size[0] // marked.shape[0]
    column = columns[middle] * size[1] // marked.shape[1]
    found = np.zeros(size, np.bool_)
    found[row, column] = True
    return found


def vanishes(marked: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether nothing but the one pixel kept by `resize_mask` is left of a mask at `size`."""
    return bool(marked.any()) and not _nearest(marked, size).any()


def read_mask(
    path: str | PathLike[str],
    *,
    image_size: tuple[int, int] | None = None,
    image_path: str | PathLike[str] = "",
    upright: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decode a mask file at its own size: `(height, width)` bool.

    A pixel is defective when it is not black, whatever its value: some datasets write 255, others
    the number of the defect's kind (which counts too where a palette has no colour for it). JPEG
    blurs edges, so there only values above 127 count.

    Args:
      path: The mask; any depth of grey, 8 bits of colour.
      image_size: `(height, width)` of the image file that the mask belongs to, if it is to be held
        against it.
      image_path: The image's file, for the message.
      upright: Whether to turn the mask by an EXIF orientation of its own, as photos are.
      max_pixels: Largest size that is decoded.

    Raises:
      InputError: unreadable as for images, or not of the image's size.
    """
    path = Path(path)
    with opened(path, max_pixels=max_pixels, whole=True) as image:
        if image.mode not in _MASK_MODES or (image.mode == "RGB" and is_deep(image)):
            mode = f"{image.mode} with 16 bits" if is_deep(image) else image.mode
            raise InputError(f"{path}: a mask of mode {mode} is not understood: save it grey")
        mask_size = upright_size(image, upright)
        if image_size is not None and mask_size != image_size:
            raise InputError(
                mask_size_message(path, mask_size, image_path, image_size, upright=upright)
            )
        lossy = isinstance(image, JpegImageFile)
        image.load()
        upright_mask = (
            ImageOps.exif_transpose(image) if upright and orientation_of(image) != 1 else image
        )
        return _marked(upright_mask, lossy=lossy)


def _nearest(marked: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if marked.shape == tuple(size):
        return marked
    small = Image.fromarray(marked.astype(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST)
    return np.asarray(small) != 0


def mask_size_message(
    mask_path: str | PathLike[str],
    mask_size: tuple[int, int],
    image_path: str | PathLike[str],
    image_size: tuple[int, int],
    *,
    upright: bool = True,
) -> str:
    """Say in one line that a mask does not lie on its image; sizes are `(height, width)`."""
    turned = upright and mask_size == image_size[::-1]
    hint = " (draw it on the photo as viewers show it, turned by its EXIF tag)" if turned else ""
    return (
        f"{mask_path}: the mask is {mask_size[1]}x{mask_size[0]} pixels but its image {image_path} "
        f"is {image_size[1]}x{image_size[0]}: save the mask at the size of its image{hint}"
    )


def _refuse_deep_pixels(path: Path | Held, image: ImageFile) -> None:
    deep_colour = is_deep(image)
    if deep_colour or image.mode not in _EIGHT_BIT:
        sixteen = (deep_colour and image.mode in _EIGHT_BIT) or "16" in image.mode
        depth = "16 bits a channel" if sixteen else f"mode {image.mode}"
        raise InputError(
            f"{path}: {depth} where 8 are read: convert it to 8 bits a channel, choosing the range "
            "of values that matters"
        )


def _marked(mask: Image.Image, *, lossy: bool) -> np.ndarray:
    """Tell which pixels of a mask are not black: `(height, width)` bool."""
    marked = np.empty((mask.height, mask.width), np.bool_)
    step = max(1, _STRIP // mask.width)
    for top in range(0, mask.height, step):  # so that only one strip is there in several forms
        strip = mask.crop((0, top, mask.width, min(top + step, mask.height)))
        marked[top : top + step] = _marked_strip(strip, lossy=lossy)
    return marked


def _marked_strip(mask: Image.Image, *, lossy: bool) -> np.ndarray:
    if mask.mode == "P":
        # Pillow reads as black what a palette has no colour for, though the number is the kind.
        palette = np.asarray(mask.getpalette() or [0, 0, 0]).reshape(-1, 3)
        coloured = np.ones(256, np.bool_)
        coloured[: len(palette)] = (
            palette.any(axis=1) if palette.any() else np.arange(len(palette)) > 0
        )
        return coloured[np.asarray(mask)]
    values = np.asarray(_eight_bit(mask) if mask.mode in _EIGHT_BIT else mask)
    marked = values > 127 if lossy else values != 0
    return np.asarray(marked.any(axis=2) if marked.ndim == 3 else marked)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Convert any 8-bit mode to "L" or "RGB" without alpha."""
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in ("1", "LA"):
        return image.convert("L")
    if image.mode in ("P", "PA", "La", "RGBa"):  # by way of RGBA: palettes may carry transparency
        image = image.convert("RGBA")
    return image.convert("RGB")
