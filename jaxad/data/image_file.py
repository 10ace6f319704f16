"""An image file opened and judged before any of its pixels is decoded.

Formats are known by a file's first bytes, sizes are bounded, checksums compared where there are
some, and whatever goes wrong in opening or in what is done with an open file is one `InputError`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

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
_BITS_PER_SAMPLE = 258
"""A tag of TIFF."""

_PNG_ORIENTATION = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})


class Held(NamedTuple):
    """A file that is in memory and on no disk, such as one that was sent."""

    name: str
    """What an error calls it."""
    data: bytes

    def __str__(self) -> str:
        return self.name

    def open(self, mode: str) -> io.BytesIO:
        """As `Path.open`, to be read."""
        return io.BytesIO(self.data)


@contextmanager
def opened(path: Path | Held, *, max_pixels: int, whole: bool = False) -> Iterator[ImageFile]:
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


def is_deep(image: ImageFile) -> bool:
    """Whether a file has more than 8 bits a channel, though its mode may not say so."""
    # Pillow opens 16-bit colour as mode "RGB" and silently keeps the high bytes. TIFF has a tag for
    # it; of others the raw mode of the decoder tells ("RGB;16B"; plain "BGR;16" is a BMP packed
    # 5-6-5, which is fine).
    if isinstance(image, TiffImageFile):
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,))) > 8
    return any(re.search(r";16[BLNS]", repr(tile)) for tile in image.tile)


def orientation_of(image: ImageFile) -> int:
    """Read a file's EXIF orientation, 1 to 8; 1 where it has none, or none that can be read."""
    if isinstance(image, PngImageFile) and not image.info.keys() & _PNG_ORIENTATION:
        return 1  # Pillow would decode the pixels to look for EXIF data behind them
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # unreadable EXIF data is no reason to lose the photo
        return 1


def upright_size(image: ImageFile, upright: bool) -> tuple[int, int]:
    """Read `(height, width)` of a file: turned by its EXIF orientation, or else as stored."""
    size = image.height, image.width
    if not upright or isinstance(image, TiffImageFile):
        return size  # Pillow's TIFF reader has already turned what it reports
    return size[::-1] if orientation_of(image) in range(5, 9) else size
