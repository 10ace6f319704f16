"""The bytes of a weight file that somebody brought, and the limits on what may be made of them."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxad.errors import InputError

MAX_BYTES = 4 * 2**30
"""No file longer than this is read; the largest network here (VGG-19) takes 0.6e9 bytes."""
MAX_EXTRA = 2**30
"""Most bytes that may be unpacked beyond the length of the file itself."""
MAX_NAME = 4096
"""Characters in the name of an array."""
MAX_ARRAYS = 10_000
"""EfficientNet-B7 has 1,200."""
MAX_RANK = 8
"""Axes of one array; the kernels of a network have four."""

DAMAGED = "the file is damaged; fetch it again"

# `name-f37072fd.pth`: torchvision, timm and others put the first digits of the SHA-256 there.
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")


class Refusal(Exception):  # noqa: N818 - a verdict on the file, not a fault of the program
    """Why bytes are not read, and the mend: one line that does not name the file."""


class Source(NamedTuple):
    """A weight file as it was brought."""

    path: Path
    data: bytes
    sha256: str


def budget(file_size: int) -> int:
    """Most bytes that may be unpacked from a file of `file_size` bytes.

    Zip compression and tensors with a stride of zero let a small file ask for any amount of memory.
    Real weights stay within twice the file (bfloat16 becomes float32).
    """
    return min(2**26 + 8 * file_size, file_size + MAX_EXTRA)


def check_count(arrays: int) -> None:
    """Refuse more arrays than a network has.

    Raises:
        Refusal: More than `MAX_ARRAYS`.
    """
    if arrays > MAX_ARRAYS:
        raise Refusal(f"it holds {arrays} arrays; no backbone has over {MAX_ARRAYS}")


def claim(name: str, shape: Sequence[int], item_size: int, *, most: int) -> int:
    """Take the bytes of one array from those that may still be unpacked.

    An axis of length 0 counts as 1: an array of shape `(0, 2**62)` is empty, and yet numpy can not
    make it.

    Args:
        name: The array's, for the message.
        shape: As the file states it: any numbers of any count.
        item_size: Bytes of one element once it is unpacked.
        most: Bytes that may still be unpacked.

    Returns:
        What is left of `most`.

    Raises:
        Refusal: More than `MAX_RANK` axes, or more bytes than are left.
    """
    shown = ascii(name)[:80]
    if len(shape) > MAX_RANK:
        raise Refusal(f"the array {shown} has {len(shape)} axes; no backbone has over {MAX_RANK}")
    left = most - math.prod(max(n, 1) for n in shape) * item_size
    if left < 0:
        raise Refusal(f"its arrays, up to {shown}, take many times the file's bytes; {DAMAGED}")
    return left


def read_source(path: str | os.PathLike[str]) -> Source:
    """Read a file whole and check the hash that its name may carry.

    Raises:
        InputError: no such file, unreadable, empty, longer than `MAX_BYTES`, or its SHA-256 does
            not begin with the digits in its name.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name the weight file in it")
        if not path.is_file():
            raise InputError(f"{path}: no such file; check the path")
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: longer than {MAX_BYTES} bytes; no backbone here is so large")
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{path}: can not be read ({reason}); check its permissions") from None
    if not data:
        raise InputError(f"{path}: is empty; fetch it again")
    sha256 = hashlib.sha256(data).hexdigest()
    named = _HASH_IN_NAME.search(path.name)
    if named and not sha256.startswith(named[1]):
        raise InputError(
            f"{path}: the name promises SHA-256 {named[1]} but the content has "
            f"{sha256[: len(named[1])]}: the download is damaged; fetch it again "
            f"(or take -{named[1]} out of the name if it is no hash)"
        )
    return Source(path, data, sha256)


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's cycle collector from running.

    A file may make a few hundred thousand containers, and the collector would walk through all
    objects of the process again and again meanwhile: seconds, where there are millions.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def decode(
    source: Source, decoder: Callable[[bytes], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Apply a decoder to the bytes and name the file in its refusal.

    Raises:
        InputError: the decoder refused the bytes, or a name in them can not be shown on one line
            (it holds control characters, or is endless).
    """
    try:
        arrays = decoder(source.data)
        for name in arrays:
            if not name.isprintable() or len(name) > MAX_NAME:
                raise Refusal(f"the name {name[:80]!a} of an array can not be printed; {DAMAGED}")
    except Refusal as refusal:
        raise InputError(f"{source.path}: {refusal}") from None
    return arrays
