"""The file: a zip of a few known members, stored as they are, the same bytes for the same content.

The reader takes what the writer writes and nothing else. It makes the headers of what it has found
anew and compares them, so that no byte of the file is without a check: members have a CRC-32 here
and a SHA-256 in the manifest. What is compressed, encrypted, linked or repacked is refused before
any of it is looked into.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxad.errors import InputError

MANIFEST, PROGRAM, WEIGHTS = "manifest.json", "program.mlir", "weights.safetensors"
CALIBRATION, PROVENANCE = "calibration.json", "provenance.json"
MOST_BYTES = {
    MANIFEST: 16 << 20,
    PROGRAM: 64 << 20,
    WEIGHTS: 3 << 30,
    CALIBRATION: 64 << 20,
    PROVENANCE: 64 << 20,
}
"""Every member that there may be, in their order in the file, and the most bytes it may have."""
REQUIRED = (MANIFEST, PROGRAM, WEIGHTS, PROVENANCE)

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_VERSION, _DATE = 20, 0x21  # of the zip format; 1 January 1980, the first day that it knows
_UNIX, _MODE = 3 << 8, 0o100644 << 16


def pack(members: Mapping[str, bytes]) -> bytes:
    """Make the file of these members, which are put in order.

    Raises:
        InputError: One is too large.
    """
    parts: list[bytes] = []
    headers: list[tuple[str, int, int, int]] = []
    offset = 0
    for name in sorted(members, key=list(MOST_BYTES).index):
        data = members[name]
        if len(data) > MOST_BYTES[name]:
            raise InputError(f"{name} would have {len(data)} bytes: at most {MOST_BYTES[name]}")
        crc = zlib.crc32(data)
        headers.append((name, crc, len(data), offset))
        parts += [_local(name, crc, len(data)), data]
        offset += len(parts[-2]) + len(data)
    return b"".join([*parts, _tail(headers, offset)])


def read(path: Path) -> Iterator[tuple[str, memoryview]]:
    """Yield name and content of every member, in order; the file's end is checked behind the last.

    Raises:
        InputError: It is no such file, cut short, damaged or too large.
    """
    view = memoryview(_bytes_of(path))
    headers: list[tuple[str, int, int, int]] = []
    offset, names = 0, list(MOST_BYTES)
    while view[offset : offset + 4] == b"PK\3\4":
        name, crc, size = _member(view, offset, path, names)
        start = offset + _LOCAL.size + len(name)
        if len(view) - start < size:
            raise InputError(
                f"{path} is cut short: {name} has {size} bytes, of which {len(view) - start} are "
                "there; bring back an undamaged copy"
            )
        content = view[start : start + size]
        if zlib.crc32(content) != crc:
            raise damaged(path, f"{name} does not have its checksum")
        headers.append((name, crc, size, offset))
        offset, names = start + size, names[names.index(name) + 1 :]
        yield name, content
    if not headers:
        raise InputError(f"{path} was not written by jaxad export: it does not begin as its zip")
    if view[offset:] != _tail(headers, offset):
        raise damaged(path, f"what follows {headers[-1][0]} is not the zip's end")


def damaged(path: Path, why: str) -> InputError:
    """What is said of a file that is not as it was written."""
    return InputError(f"{path} is damaged ({why}): bring back an undamaged copy, or export again")


def _bytes_of(path: Path) -> bytes:
    most, mend = sum(MOST_BYTES.values()), "name what jaxad export has written"
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
            raise ValueError("it is no file")
        if found.st_size > most:
            raise ValueError(f"{found.st_size} bytes, more than any exported detector has")
        with path.open("rb") as file:
            return file.read(most)
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or error
        raise InputError(f"{path} can not be read ({told}): {mend}") from None


def _member(view: memoryview, offset: int, path: Path, names: list[str]) -> tuple[str, int, int]:
    """Name, CRC-32 and size of the member whose header is there; `names` may still come."""
    header = view[offset : offset + _LOCAL.size]
    if len(header) < _LOCAL.size:
        raise damaged(path, "it is cut short")
    *_, crc, _, size, name_length, _ = _LOCAL.unpack(header)
    text = bytes(view[offset + _LOCAL.size :][:name_length][:100])
    name = next((known for known in names if known.encode() == text), None)
    if name is None:
        shown = text.decode("utf-8", "backslashreplace")
        raise InputError(
            f"{path} was not written by jaxad export, or is damaged: its zip has {shown!r} where "
            f"{' or '.join(names) or 'nothing'} belongs"
        )
    if bytes(header) != _local(name, crc, size)[: _LOCAL.size]:
        raise damaged(path, f"the zip's header of {name} is not as jaxad writes it")
    if size > MOST_BYTES[name]:
        raise damaged(path, f"{name} has {size} bytes, more than any")
    return name, crc, size


def _local(name: str, crc: int, size: int) -> bytes:
    sizes = (crc, size, size, len(name), 0)
    return _LOCAL.pack(b"PK\3\4", _VERSION, 0, 0, 0, _DATE, *sizes) + name.encode()


def _tail(headers: list[tuple[str, int, int, int]], offset: int) -> bytes:
    """The zip's directory and its end, which follow the members at `offset`."""
    entries = b"".join(
        _CENTRAL.pack(
            b"PK\1\2", _UNIX | _VERSION, _VERSION, 0, 0, 0, _DATE, crc, size, size,
            *(len(name), 0, 0, 0, 0, _MODE, place),
        )
        + name.encode()
        for name, crc, size, place in headers
    )  # fmt: skip
    count = len(headers)
    return entries + _END.pack(b"PK\5\6", 0, 0, count, count, len(entries), offset, 0)
