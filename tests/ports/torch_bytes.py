"""Files of `torch.save` and zip archives made byte by byte, right or wrong as a test wants them.

A value is the bytes of the opcodes that make it.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from ports.source import Refusal
from ports.torch_file import decode_torch

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "torch_files"

MAGIC, VERSION = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", b"M\xe9\x03"
ORDERED = b"ccollections\nOrderedDict\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
PARAMETER = b"ctorch._utils\n_rebuild_parameter\n"
NAMESPACE = b"cargparse\nNamespace\n"


def within_a_second(call: Callable[[], object]) -> None:
    """Call; it takes less than a second of processor time.

    The best of three tries counts: a busy neighbour slows a core down, a slow reader is slow again.
    """
    seconds = []
    while not seconds or (min(seconds) >= 1 and len(seconds) < 3):
        start = time.thread_time()
        call()
        seconds.append(time.thread_time() - start)
    assert min(seconds) < 1


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def tuple_(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def dict_(items: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def storage(key: str, total: int, kind: str = "Float", *more: bytes) -> bytes:
    name = f"ctorch\n{kind}Storage\n".encode()
    return tuple_(text("storage"), name, text(key), text("cpu"), number(total), *more) + b"Q"


def tensor(store: bytes, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    numbers = (tuple_(*map(number, size)), tuple_(*map(number, stride)))
    return REBUILD + tuple_(store, number(offset), *numbers, b"\x89", ORDERED + b")R") + b"R"


def zip_file(state: bytes, storages: dict[str, bytes], **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + state + b".")
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def stream_file(state: bytes, storages: dict[str, tuple[int, bytes]]) -> bytes:
    info = dict_({"protocol_version": VERSION, "little_endian": b"\x88"})
    keys = b"](" + b"".join(text(key) for key in storages) + b"e"
    pickles = b"".join(b"\x80\x02" + p + b"." for p in (MAGIC, VERSION, info, state, keys))
    raw = (struct.pack("<q", count) + content for count, content in storages.values())
    return pickles + b"".join(raw)


FLOATS = np.arange(6, dtype="<f4")
LONGS = np.array([7, 8], "<i8")
STATE = dict_(
    {
        "a": tensor(storage("0", 6), (2, 3), (3, 1)),
        "b": tensor(storage("0", 6), (3, 2), (1, 3)),
        "c": tensor(storage("1", 2, "Long"), (), ()),
    }
)
ZIP = zip_file(STATE, {"0": FLOATS.tobytes(), "1": LONGS.tobytes()})
STREAM = stream_file(STATE, {"0": (6, FLOATS.tobytes()), "1": (2, LONGS.tobytes())})
FOUR = tensor(storage("0", 4), (4,), (1,))


def one_zip(state: bytes, content: bytes = bytes(16)) -> bytes:
    return zip_file(state, {"0": content})


def one_stream(state: bytes, content: bytes = bytes(16)) -> bytes:
    return stream_file(state, {"0": (len(content) // 4, content)})


def refused(data: bytes) -> str:
    with pytest.raises(Refusal) as info:
        decode_torch(data)
    assert "\n" not in str(info.value)
    return str(info.value)


@dataclasses.dataclass
class Entry:
    """A member of an archive; None is the truth."""

    name: bytes
    content: bytes
    local_name: bytes | None = None
    offset: int | None = None
    compress_size: int | None = None
    file_size: int | None = None
    crc: int | None = None
    method: int = 0
    flags: int = 0
    extra: bytes = b""


def deflated(name: bytes, content: bytes) -> Entry:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(content) + packer.flush()
    crc = zlib.crc32(content)
    return Entry(name, packed, file_size=len(content), crc=crc, method=8)


def raw_zip(
    entries: Iterable[Entry],
    *,
    count: int | None = None,
    size: int | None = None,
    start: int | None = None,
    zip64: bool = False,
    comment: bytes = b"",
    behind: bytes = b"",
) -> bytes:
    """Write an archive that may lie in any field of its directory."""

    def told(lie: int | None, truth: int) -> int:
        return truth if lie is None else lie

    out, directory, number_of = bytearray(), bytearray(), 0
    for entry in entries:
        number_of += 1
        name = entry.name if entry.local_name is None else entry.local_name
        length = len(entry.content)
        fields = (entry.flags, entry.method, 0, 0, told(entry.crc, zlib.crc32(entry.content)))
        sizes = (told(entry.compress_size, length), told(entry.file_size, length))
        place = told(entry.offset, len(out))
        out += struct.pack("<4s5H3I2H", b"PK\3\4", 20, *fields, *sizes, len(name), 0)
        out += name + entry.content
        lengths = (len(entry.name), len(entry.extra), 0, 0, 0, 0)
        directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, *fields, *sizes, *lengths, place)
        directory += entry.name + entry.extra
    place, length = told(start, len(out)), told(size, len(directory))
    counts = (told(count, number_of),) * 2
    out += directory
    if zip64:
        record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, *counts, length, place)
        out += record + struct.pack("<4sIQI", b"PK\6\7", 0, len(out), 1)
        counts, length, place = (0xFFFF,) * 2, 2**32 - 1, 2**32 - 1
    fields = (0, 0, *(n & 0xFFFF for n in counts), length % 2**32, place % 2**32, len(comment))
    out += struct.pack("<4s4H2IH", b"PK\5\6", *fields)
    return bytes(out + comment + behind)


def members_of(data: bytes) -> list[Entry]:
    """Return the members of an archive as entries that tell the truth."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [Entry(name.encode(), archive.read(name)) for name in archive.namelist()]
