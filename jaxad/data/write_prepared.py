"""Photos decoded and resized once: how they are written; see `jaxad.data.prepared`."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import (  # type: ignore[import-untyped]
    ArrayRecordWriter,
)

from jaxad.data.manifest import SPLITS, Manifest
from jaxad.data.pipeline import batches
from jaxad.data.prepared import file_of, find, locate, nbytes, path_bytes
from jaxad.errors import InputError
from jaxad.progress import Progress

_UNFINISHED = re.compile(r"\.\d+x\d+-\w+-[0-9a-f]{16}\.[0-9a-f]{32}")


def write_prepared(
    manifest: Manifest,
    folder: str | os.PathLike[str],
    *,
    size: tuple[int, int],
    resample: str = "lanczos",
    workers: int = 0,
    check: Callable[[], None] = lambda: None,
) -> Manifest:
    """Decode all photos into a folder, unless they are there; return them as `prepared.find` does.

    Written under a temporary name and then renamed: whole or not at all, whatever interrupts it
    and whoever else writes the same. What killed processes left there is deleted.

    Args:
      manifest: Of which every file can be read; decoded anew even where it is prepared.
      folder: Made if needed.
      size: `(H, W)`.
      resample: A name in `images.FILTERS`.
      workers: As of `pipeline.batches`.
      check: Called before every batch; may raise, to end the work.

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
    progress = Progress("prepare", len(manifest), "images")
    try:
        with _unfinished(at) as unfinished:
            for split in SPLITS:
                part = Manifest(
                    manifest.root,
                    tuple(r._replace(prepared="") for r in manifest.records if r.split == split),
                )
                if len(part):
                    file = file_of(unfinished / split)
                    _write_split(part, file, size, resample, workers, progress, check)
            unfinished.rename(at)
    except InputError:
        raise
    except Exception as error:  # the disk's or array_record's
        if not at.exists():  # or another process was first
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"{folder}: prepared photos can not be written ({reason}): make room, or set "
                "data.prepared=off"
            ) from error
    found = find(manifest, folder, size=size, resample=resample)
    if found is None:
        raise InputError(f"{folder}: photos changed while they were decoded: run it again")
    return found


@contextmanager
def _unfinished(at: Path) -> Iterator[Path]:
    """Make a folder that is to be renamed to `at`; whatever it is called then, it is deleted.

    It is locked as long as its process lives, which tells it from those of killed ones.
    """
    at.parent.mkdir(parents=True, exist_ok=True)
    for left in at.parent.iterdir():
        if _UNFINISHED.fullmatch(left.name) and not left.is_symlink():
            _clear_if_left(left)
    folder, held = _locked_folder(at)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _locked_folder(at: Path) -> tuple[Path, int]:
    while True:
        folder = at.with_name(f".{at.name}.{uuid.uuid4().hex}")
        folder.mkdir()
        try:
            held = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another process has found it before it was locked
            continue
        with suppress(OSError):  # a disk without locks, where nobody deletes what others left
            fcntl.flock(held, fcntl.LOCK_EX)
        if folder.exists():
            return folder, held
        os.close(held)


def _clear_if_left(folder: Path) -> None:
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # its process is alive, or the disk knows no locks
        pass
    finally:
        os.close(held)


def _write_split(
    part: Manifest,
    file: Path,
    size: tuple[int, int],
    resample: str,
    workers: int,
    progress: Progress,
    check: Callable[[], None],
) -> None:
    # Pixels are stored as they are, each example by itself, to be read with a single copy: a PNG of
    # the training size would take milliseconds to decode, and array_record's own compression four
    # times as long to read for a seventh less room, since camera noise can not be compressed.
    writer = ArrayRecordWriter(str(file), "group_size:1,uncompressed")
    try:
        stream = batches(part, image_size=size, batch_size=8, resample=resample, workers=workers)
        for batch in stream:
            check()
            for row in np.flatnonzero(batch["_mask"]):
                image, mask = batch["image"][row], np.packbits(batch["mask"][row])
                path = path_bytes(part.records[batch["index"][row]])
                writer.write(image.tobytes() + mask.tobytes() + path)
                progress.advance()
    finally:
        writer.close()  # raises what a write met with: the disk is full


def _free(folder: Path) -> int:
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free
