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

import re
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from jaxad.errors import InputError

MAX_PIXELS = 64 * 1024 * 1024
"""Largest width x height decoded by default: 64 megapixels, 192 MiB as RGB."""

MAX_SIDE = 65_536
"""Largest width and height: what a filter needs to shrink a side grows with the side."""

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

# Pillow's Image.open judges the size by a process-wide limit before anyone sees it, so the readers
# are called directly and the size is judged here.
_READERS: dict[bytes, type[ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"BM": BmpImageFile,
    b"II*\0": TiffImageFile,
    b"MM\0*": TiffImageFile,
    b"II+\0": TiffImageFile,
    b"MM\0+": TiffImageFile,
}
_EIGHT_BIT = frozenset(
    {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
)
_MASK_MODES = _EIGHT_BIT | {"I", "F", "I;16", "I;16L", "I;16B", "I;16N"}

_STRIP = 4 * 1024 * 1024
"""Pixels of a mask that are looked at at a time."""

_BITS_PER_SAMPLE = 258
"""A tag of TIFF."""

_PNG_ORIENTATION = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})


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
    with _opened(Path(path), max_pixels=max_pixels) as image:
        _refuse_deep_pixels(Path(path), image)
        return Header(image.mode, _size(image, upright))


def read_mask_header(
    path: str | PathLike[str], *, upright: bool = True, max_pixels: int = MAX_PIXELS
) -> Header:
    """Read mode and size of a mask without decoding it; see `decode_mask` for what is refused."""
    with _opened(Path(path), max_pixels=max_pixels) as image:
        return Header(image.mode, _size(image, upright))


def read_image(
    path: str | PathLike[str], *, upright: bool = True, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode an image at its own size to a Pillow image of mode "L" or "RGB".

    Raises:
      InputError: see `decode_image`.
    """
    path = Path(path)
    with _opened(path, max_pixels=max_pixels, whole=True) as image:
        _refuse_deep_pixels(path, image)
        image.load()
        orientation = _orientation(image) if upright else 1
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
    with _opened(path, max_pixels=max_pixels, whole=True) as image:
        if image.mode not in _MASK_MODES or (image.mode == "RGB" and _is_deep(image)):
            mode = f"{image.mode} with 16 bits" if _is_deep(image) else image.mode
            raise InputError(f"{path}: a mask of mode {mode} is not understood: save it grey")
        mask_size = _size(image, upright)
        if image_size is not None and mask_size != image_size:
            raise InputError(
                mask_size_message(path, mask_size, image_path, image_size, upright=upright)
            )
        lossy = isinstance(image, JpegImageFile)
        image.load()
        upright_mask = (
            ImageOps.exif_transpose(image) if upright and _orientation(image) != 1 else image
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


@contextmanager
def _opened(path: Path, *, max_pixels: int, whole: bool = False) -> Iterator[ImageFile]:
    """Open a file by its first bytes, judge its size, and turn every failure into InputError.

    With `whole`, which is for those who decode, the checksums that the format has are compared.
    """
    try:
        with path.open("rb") as file:
            start = file.read(8)
            if not start:
                raise InputError(f"{path}: the file is empty (0 bytes): replace or remove it")
            reader = next((r for magic, r in _READERS.items() if start.startswith(magic)), None)
            if reader is None:
                raise InputError(f"{path}: no PNG, JPEG, BMP or TIFF image: convert or remove it")
            file.seek(0)
            image = reader(file)
            width, height = image.size
            if width * height > max_pixels:
                raise InputError(
                    f"{path}: {width}x{height} pixels is more than the {max_pixels} that are "
                    "decoded: crop it, scale it down or cut it into tiles"
                )
            if max(width, height) > MAX_SIDE:
                raise InputError(
                    f"{path}: {width}x{height} pixels has a side longer than {MAX_SIDE}: crop it "
                    "or cut it into tiles"
                )
            if whole and isinstance(image, PngImageFile):
                image.verify()  # Pillow's decoder passes over the sums of pixel data
                file.seek(0)
                image = reader(file)
            yield image
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: restore it or remove its record") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not the decoder's
            raise InputError(f"{path}: can not be read ({error.strerror})") from error
        # Pillow's readers raise whatever a damaged file leads them into: OSError, SyntaxError,
        # struct.error, KeyError, OverflowError ...
        raise InputError(
            f"{path}: damaged or truncated image ({error or type(error).__name__}): replace or "
            "remove it"
        ) from error


def _refuse_deep_pixels(path: Path, image: ImageFile) -> None:
    deep_colour = _is_deep(image)
    if deep_colour or image.mode not in _EIGHT_BIT:
        sixteen = (deep_colour and image.mode in _EIGHT_BIT) or "16" in image.mode
        depth = "16 bits a channel" if sixteen else f"mode {image.mode}"
        raise InputError(
            f"{path}: {depth} where 8 are read: convert it to 8 bits a channel, choosing the range "
            "of values that matters"
        )


def _is_deep(image: ImageFile) -> bool:
    # Pillow opens 16-bit colour as mode "RGB" and silently keeps the high bytes. TIFF has a tag for
    # it; of others the raw mode of the decoder tells ("RGB;16B"; plain "BGR;16" is a BMP packed
    # 5-6-5, which is fine).
    if isinstance(image, TiffImageFile):
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,))) > 8
    return any(re.search(r";16[BLNS]", repr(tile)) for tile in image.tile)


def _orientation(image: ImageFile) -> int:
    if isinstance(image, PngImageFile) and not image.info.keys() & _PNG_ORIENTATION:
        return 1  # Pillow would decode the pixels to look for EXIF data behind them
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # unreadable EXIF data is no reason to lose the photo
        return 1


def _size(image: ImageFile, upright: bool) -> tuple[int, int]:
    # Pillow's TIFF reader has already turned the size it reports, and turns the pixels itself.
    turned = upright and not isinstance(image, TiffImageFile) and _orientation(image) in range(5, 9)
    return (image.width, image.height) if turned else (image.height, image.width)


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
