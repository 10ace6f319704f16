"""Photos decoded and resized once: written as array_record at the training size, then read back.

Reading an example takes a fraction of a millisecond where a photo of 900 x 900 pixels takes tens to
decode and resize (`python -m benchmarks.input` measures both). A manifest whose records say where
they are `prepared` goes wherever any other manifest goes, and gives the same batches, bit for bit.

Below one folder every set of photos, size and filter has a folder of its own, whose name ends in a
digest of all that its pixels depend on: names, sizes and times of the files, and Pillow's version.
What has changed is therefore never read, but written anew beside it. Nothing here is ever deleted;
any of these folders may be.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path

import numpy as np
import PIL

from jaxad.data.decode import image_path, mask_path
from jaxad.data.manifest import SPLITS, Manifest, Record
from jaxad.data.members import container_stamp, is_container, is_number, open_container
from jaxad.errors import InputError

NAME, VERSION = "visual_ad", "1.0.0"
"""Of the tfds dataset. Another form of the examples needs another version."""


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
        + ([_stamp(mask_path(manifest.root, record), known)] if record.mask else [])
        for record in (r._replace(prepared="") for r in manifest.records)
    ]
    text = json.dumps([PIL.__version__, facts], ensure_ascii=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Path(folder) / f"{_variant(size, resample)}{digest[:16]}" / NAME / VERSION


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
                held = open_container(at / split)
                whole = len(held.examples) == count and held.size == tuple(size)
            except InputError as error:
                raise _damaged(at, str(error)) from error
            except Exception as error:  # no such split, or whatever damage leads array_record into
                raise _damaged(at, f"split {split!r}: {type(error).__name__}") from error
            if not whole:
                raise _damaged(at, f"{len(held.examples)} of {count} images of split {split!r}")
    return Manifest(manifest.root, tuple(records))


def write(
    manifest: Manifest,
    folder: str | os.PathLike[str],
    *,
    size: tuple[int, int],
    resample: str = "lanczos",
    workers: int = 0,
) -> Manifest:
    """Decode all photos into a folder, unless they are there; return them as `find` does.

    Written under a temporary name and then renamed: whole or not at all, whatever interrupts it
    and whoever else writes the same.

    Args:
      manifest: Of which every file can be read.
      folder: Made if needed.
      size: `(H, W)`.
      resample: A name in `images.FILTERS`.
      workers: As of `pipeline.batches`.

    Raises:
      InputError: a photo that can not be decoded, or no room to write to.
    """
    found = find(manifest, folder, size=size, resample=resample)
    if found:
        return found
    at = locate(manifest, folder, size=size, resample=resample)
    need, free = nbytes(len(manifest), size), _free(Path(folder))
    if need > free:
        raise InputError(
            f"{folder}: {len(manifest)} images at this size need {need / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free: make room, or set data.prepared=off"
        )
    # A second to import, so only where it is wanted.
    from jaxad.data.tfds_builder import VisualAD

    at = at.parent.parent
    unfinished = at.with_name(f".{at.name}.{uuid.uuid4().hex}")
    try:
        unfinished.mkdir(parents=True)
        VisualAD(
            manifest, size=size, resample=resample, workers=workers, data_dir=unfinished
        ).download_and_prepare()
        shutil.rmtree(unfinished / "downloads", ignore_errors=True)  # empty; tfds makes it
        unfinished.rename(at)
    except InputError:
        raise
    except Exception as error:  # the disk's, array_record's or tfds's
        if not at.exists():  # or another process was first
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"{folder}: prepared photos can not be written ({reason}): make room, or set "
                "data.prepared=off"
            ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    found = find(manifest, folder, size=size, resample=resample)
    if found is None:
        raise InputError(f"{folder}: photos changed while they were decoded: run it again")
    return found


def read(
    record: Record, *, size: tuple[int, int], resample: str, with_mask: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a prepared record: image `(H, W, 3)` uint8 and mask `(H, W)` bool (None: not asked for).

    The rest of an example is for others who read it: what a record says is never taken from it.

    Raises:
      InputError: damaged, or prepared at another size or by another filter.
    """
    place = Path(record.prepared)
    at = place.parent.parent
    height, width = size
    if not at.parent.parent.name.startswith(_variant(size, resample)):
        raise InputError(
            f"{at}: prepared at another size or by another filter than {height}x{width} and "
            f"{resample}: prepare the photos for these"
        )
    try:
        example = open_container(place.parent).examples[int(place.name)]
        if example["path"].decode(errors="surrogateescape") != record.path:
            raise ValueError("another image")
        image = example["image"].reshape(height, width, 3)
        if not with_mask:
            return image, None
        bits = np.unpackbits(example["mask"], count=height * width)
        return image, bits.astype(np.bool_).reshape(height, width)
    except Exception as error:  # whatever damage leads array_record and tfds into
        raise _damaged(at, f"example {place.name}: {type(error).__name__}") from error


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


def _free(folder: Path) -> int:
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free


def _damaged(at: Path, what: str) -> InputError:
    return InputError(f"{at}: damaged prepared photos ({what}): delete the folder and run it again")
