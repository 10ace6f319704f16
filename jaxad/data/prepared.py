"""Photos decoded and resized once, kept as array_record at the training size: how they are read.

Reading one takes a fraction of a millisecond where a photo of 900 x 900 pixels takes tens to decode
and resize (`python -m benchmarks.input` measures both). A manifest whose records say where they are
`prepared` goes wherever any other manifest goes, and gives the same batches, bit for bit.
`jaxad.data.write_prepared` writes them.

Below one folder every set of photos, size and filter has a folder of its own, whose name ends in a
digest of all that its pixels depend on: names, sizes and times of the files, and Pillow's version.
What has changed is therefore never read, but written anew beside it. Nothing here is ever deleted;
any of these folders may be.

In it is `train.array_record`, and so on for each split, in the manifest's order. An example is the
bytes of the image `(H, W, 3)` uint8, those of the mask as `np.packbits` makes them, and the path of
the photo in UTF-8. array_record keeps checksums of all that it stores and compares them when it
reads: one wrong bit is an error, not other pixels.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import PIL
from grain.sources import ArrayRecordDataSource

from jaxad.data.decode import image_path, mask_paths
from jaxad.data.manifest import SPLITS, Manifest, Record
from jaxad.data.members import container_stamp, is_container, is_number
from jaxad.errors import InputError

FORMAT = 2
"""Of the examples and of the folder: another form needs another number."""


def locate(
    manifest: Manifest,
    folder: str | os.PathLike[str],
    *,
    size: tuple[int, int],
    resample: str = "lanczos",
) -> Path:
    """Name the folder that holds, or will hold, a manifest's photos at `size = (H, W)`.

    Raises:
      InputError: a file of the manifest can not be looked at.
    """
    known: dict[Path, tuple[int, int]] = {}
    facts = [
        [list(record), _stamp(image_path(manifest.root, record), known)]
        + [[path.name, _stamp(path, known)] for path in mask_paths(manifest.root, record)]
        for record in (r._replace(prepared="") for r in manifest.records)
    ]
    text = json.dumps([FORMAT, PIL.__version__, facts], ensure_ascii=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Path(folder) / f"{_variant(size, resample)}{digest[:16]}"


def find(
    manifest: Manifest,
    folder: str | os.PathLike[str],
    *,
    size: tuple[int, int],
    resample: str = "lanczos",
) -> Manifest | None:
    """Return the manifest with its records `prepared` below a folder; None if they are not there.

    Raises:
      InputError: they are there, but damaged.
    """
    at = locate(manifest, folder, size=size, resample=resample)
    if not os.path.exists(at):  # noqa: PTH110 - says no where it is not permitted to look
        return None
    counts = dict.fromkeys(SPLITS, 0)
    records = []
    for record in manifest.records:
        place = f"{at}/{record.split}/{counts[record.split]}"
        records.append(record._replace(prepared=place))
        counts[record.split] += 1
    for split, count in counts.items():
        if count:
            try:
                held = len(_open(at / split))
            except Exception as error:  # no such file, or whatever damage leads array_record into
                raise _damaged(at, f"split {split!r}: {type(error).__name__}") from error
            if held != count:
                raise _damaged(at, f"{held} of {count} images of split {split!r}")
    return Manifest(manifest.root, tuple(records))


def read(
    record: Record, *, size: tuple[int, int], resample: str, with_mask: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a prepared record: image `(H, W, 3)` uint8 and mask `(H, W)` bool (None: not asked for).

    Raises:
      InputError: damaged, or prepared at another size or by another filter.
    """
    place = Path(record.prepared)
    at = place.parent.parent
    height, width = size
    if not at.name.startswith(_variant(size, resample)):
        raise InputError(
            f"{at}: photos prepared at another size or by another filter than {height}x{width} "
            f"{resample}: prepare the photos for these"
        )
    pixels = height * width * 3
    bits = -(-height * width // 8)
    try:
        example = _open(place.parent)[int(place.name)]
        if example[pixels + bits :] != path_bytes(record):
            raise ValueError("another image")
    except Exception as error:  # whatever damage leads array_record into
        raise _damaged(at, f"example {place.name}: {type(error).__name__}") from error
    image = np.frombuffer(example, np.uint8, pixels).reshape(height, width, 3)
    if not with_mask:
        return image, None
    mask = np.unpackbits(np.frombuffer(example, np.uint8, bits, pixels), count=height * width)
    return image, mask.view(np.bool_).reshape(height, width)


def file_of(split: Path) -> Path:
    """Name the file of a split of prepared photos, such as `FOLDER/train`."""
    return split.with_name(f"{split.name}.array_record")


def path_bytes(record: Record) -> bytes:
    """UTF-8 of a record's path; names of files that are not keep the bytes that they have."""
    return record.path.encode(errors="surrogateescape")


def nbytes(count: int, size: tuple[int, int]) -> int:
    """Bytes on disk of so many images of `size = (H, W)` and their masks, to within a percent."""
    height, width = size
    return count * (height * width * 3 + -(-height * width // 8) + 512)


def _variant(size: tuple[int, int], resample: str) -> str:
    return f"{size[0]}x{size[1]}-{resample}-"


def _stamp(path: Path, known: dict[Path, tuple[int, int]]) -> tuple[int, int]:
    """Time and size of an image's file, or of the container that it is in."""
    container = path.parent
    if container in known:
        return known[container]
    try:
        if is_number(path.name) and is_container(container):
            known[container] = container_stamp(container)
            return known[container]
        stat = path.stat()
    except OSError as error:
        raise InputError(f"{path}: can not be read ({error.strerror})") from None
    return stat.st_mtime_ns, stat.st_size


def _open(split: Path) -> ArrayRecordDataSource:
    """Open the file of a split, which stays open as long as it does not change."""
    file = file_of(split)
    stat = file.lstat()
    if file.is_symlink():
        raise ValueError("a link")
    return _opened(str(file), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=8)
def _opened(file: str, time: int, nbytes: int) -> ArrayRecordDataSource:
    del time, nbytes
    return ArrayRecordDataSource(file)


def _damaged(at: Path, what: str) -> InputError:
    return InputError(f"{at}: damaged prepared photos ({what}): delete the folder and run it again")
