"""Where a run reads its photos: from their files, or decoded and resized once before it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxad.data import prepared
from jaxad.data.manifest import Manifest
from jaxad.data.reading import Reading
from jaxad.data.write_prepared import write_prepared

FOLDER = ".prepared"
"""In a work directory, while it is trained, where nobody named a folder."""
WORTH = 1.5
"""Photos are decoded before a run where each is read so many times on average: once costs a little
more."""
DISK_SHARE = 0.5
"""Unasked, they may take this share of the disk that is free."""


@contextmanager
def decoded_once(
    manifest: Manifest,
    reading: Reading,
    wish: str | Path,
    own: Callable[[], Path],
    *,
    reads: float,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Manifest]:
    """Give the manifest from which a run reads fastest.

    Args:
        manifest: Of the photos' files.
        reading: How photos are read.
        wish: "auto": where it pays, deleted when the run ends; "off": never; a folder: kept there.
        own: Names, and so claims, the folder of a run's own.
        reads: How often the run reads a photo; see `reads_of`.
        check: Called before every batch; may raise, to end the work.

    Raises:
        InputError: The folder that is named can not be written to, or what it holds is damaged.
    """

    def write(folder: Path) -> Manifest:
        return write_prepared(
            manifest,
            folder,
            size=reading.size,
            resample=reading.resample,
            workers=reading.workers,
            check=check,
        )

    if isinstance(wish, Path):
        yield write(wish)
        return
    if wish == "off" or reads < WORTH:
        yield manifest
        return
    folder = own()
    need, free = prepared.nbytes(len(manifest), reading.size), shutil.disk_usage(folder.parent).free
    if need > DISK_SHARE * free:
        print(
            f"decoding every photo {reads:.0f} times: decoded ones would need {need / 1e9:.1f} "
            f"of {free / 1e9:.1f} GB; name a folder with more room by data.prepared",
            file=sys.stderr,
        )
        yield manifest
        return
    try:
        yield write(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def reads_of(*, train: int, test: int, seen: int | None, replicates: int, networks: int) -> float:
    """How often a run decodes a photo, on average over those that it uses.

    Args:
        train: Training photos of all detectors.
        test: Test and calibration photos of all detectors.
        seen: Photos that the steps of one replicate see; None: features are computed once and kept.
        replicates: Runs under several seeds; each scores these.
        networks: Runs with frozen networks of their own, which compute features of their own.
    """
    read = networks * train if seen is None else replicates * seen
    return (replicates * test + read) / max(train + test, 1)
