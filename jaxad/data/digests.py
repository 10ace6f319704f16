"""SHA-256 of photos and files: what a photo holds, whatever it is called and wherever it lies.

Files are read whole: about a second for a gigabyte and 0.1 ms a file, which threads share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jaxad.data.decode import image_path
from jaxad.data.manifest import Manifest
from jaxad.data.members import find_member
from jaxad.errors import InputError
from jaxad.files import sha256

Digests = dict[tuple[str, str], str]
"""`(record.root, record.path)` -> 64 hex digits."""


def photo_digests(manifest: Manifest) -> Digests:
    """Hash every photo of a manifest once: its file, or its pixels where it is within one.

    Args:
      manifest: Validated, or of records that can be read: no path is judged here.

    Raises:
      InputError: a file can not be read.
    """
    places = {(r.root, r.path): image_path(manifest.root, r) for r in manifest.records}
    found, files = Digests(), {}
    for key, place in places.items():
        if member := find_member(place):
            found[key] = hashlib.sha256(member.read().tobytes()).hexdigest()
        else:
            files[key] = place
    digests = file_digests(files.values())
    return found | {key: digests[place] for key, place in files.items()}


def file_digests(files: Iterable[Path]) -> dict[Path, str]:
    """Hash the bytes of each file.

    Raises:
      InputError: a file can not be read.
    """
    named = list(dict.fromkeys(files))
    with ThreadPoolExecutor() as pool:
        return dict(zip(named, pool.map(_digest, named)))


def _digest(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise InputError(f"{path}: can not be read ({error.strerror})") from error
