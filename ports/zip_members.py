"""Members of a zip archive held in memory, read in place and never written to disk.

The directory is parsed here and not by `zipfile`, which cuts names at a NUL, accepts members that
lie over one another and differs between versions of Python in what it checks. An archive that two
programs could read in two ways is refused.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from ports.source import DAMAGED, Refusal

MAX_MEMBERS = 20_000
"""EfficientNet-B7 has 1,200 tensors, each a member; with Adam's moments 3,300."""

_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64 = struct.Struct("<4sIQI")
_FULL = 2**32 - 1  # the number stands in the zip64 field instead
_ENCRYPTED = 0x2041  # plain, strong, or of the directory


class Member(NamedTuple):
    """An entry of the directory; the fields are called as in `zipfile.ZipInfo`."""

    filename: str
    raw_name: bytes
    header_offset: int
    compress_size: int
    file_size: int
    CRC: int
    compress_type: int
    flag_bits: int


def list_members(data: bytes) -> dict[str, Member]:
    """List the members of an archive by name, which is only ever a key.

    Raises:
        Refusal: damaged, too many members, two of one name, or two that share bytes (one stored
            block could be read any number of times).
    """
    start, end, count = _directory(data)
    if count > MAX_MEMBERS:
        raise Refusal(f"it is a zip archive of more than {MAX_MEMBERS} members; no weight file is")
    members: dict[str, Member] = {}
    position = start
    for _ in range(count):
        member, position = _entry(data, position, end)
        if member.filename in members:
            raise Refusal(
                f"it is a zip archive with two members of one name, {member.filename[:100]!a}; "
                + DAMAGED
            )
        members[member.filename] = member
    if position != end:
        raise Refusal(f"its directory of members has another length than it says; {DAMAGED}")
    free = 0
    for member in sorted(members.values(), key=lambda member: member.header_offset):
        if member.header_offset < free:
            raise Refusal(
                f"member {member.filename[:100]!a} lies over another one; no weight file has that"
            )
        free = member.header_offset + _LOCAL.size + member.compress_size
    if free > start:
        raise Refusal(f"its members reach into their directory; {DAMAGED}")
    return members


def read_member(data: bytes, info: Member, *, most: int, compressed: bool = False) -> memoryview:
    """Return the content of one member: a view of `data`, or new bytes where it was deflated.

    Args:
        data: the archive.
        info: the member's entry in the directory.
        most: bytes that the member may unpack to.
        compressed: accept deflate.

    Raises:
        Refusal: damaged (bounds, size or CRC), encrypted, compressed in another way, or too large.
    """
    shown = f"member {info.filename[:100]!a}"
    if info.flag_bits & _ENCRYPTED or info.compress_type not in ((0, 8) if compressed else (0,)):
        raise Refusal(f"{shown} is compressed or encrypted; save the weights again")
    if info.header_offset + _LOCAL.size > len(data):
        raise Refusal(f"{shown} is not where the directory says; {DAMAGED}")
    mark, *_, name_size, extra_size = _LOCAL.unpack_from(data, info.header_offset)
    start = info.header_offset + _LOCAL.size
    same_name = name_size == len(info.raw_name) and data.startswith(info.raw_name, start)
    if mark != b"PK\x03\x04" or not same_name:
        raise Refusal(f"{shown} is not where the directory says; {DAMAGED}")
    start += name_size + extra_size
    content = memoryview(data)[start : start + info.compress_size]
    if len(content) != info.compress_size:
        raise Refusal(f"{shown} ends early; {DAMAGED}")
    if info.file_size > most:
        raise Refusal(f"{shown} unpacks to {info.file_size} bytes, more than this file may")
    if info.compress_type == 8:
        inflate = zlib.decompressobj(-15)
        try:
            content = memoryview(inflate.decompress(content, info.file_size + 1))
        except zlib.error:
            raise Refusal(f"{shown} can not be unpacked; {DAMAGED}") from None
    if len(content) != info.file_size:
        raise Refusal(f"{shown} has another length than the directory says; {DAMAGED}")
    # torch.serialization.set_crc32_options(False) leaves every CRC at 0.
    if info.CRC and zlib.crc32(content) != info.CRC:
        raise Refusal(f"{shown} has another checksum (CRC) than the directory says; {DAMAGED}")
    return content


def _directory(data: bytes) -> tuple[int, int, int]:
    """Return where the directory begins and ends, and its number of entries."""
    end = data.rfind(b"PK\x05\x06", max(0, len(data) - _END.size - 0xFFFF))
    if end < 0 or end + _END.size > len(data):
        raise Refusal(f"it is a zip archive that ends early; {DAMAGED}")
    _, *disks, here, count, size, start, comment = _END.unpack_from(data, end)
    if end + _END.size + comment != len(data):
        raise Refusal(f"it is a zip archive with bytes behind its end; {DAMAGED}")
    locator = end - _LOCATOR_64.size
    if locator >= 0 and data[locator : locator + 4] == b"PK\x06\x07":
        _, disk, end, _ = _LOCATOR_64.unpack_from(data, locator)
        if disk or end + _END_64.size > locator or data[end : end + 4] != b"PK\x06\x06":
            raise Refusal(DAMAGED)
        wide = _END_64.unpack_from(data, end)
        if wide[1] + 12 != locator - end:
            raise Refusal(DAMAGED)
        narrow = (*disks, here, count, size, start)
        full = (0xFFFF,) * 4 + (_FULL,) * 2
        if any(n not in (w, f) for n, w, f in zip(narrow, wide[4:], full)):
            raise Refusal(f"its two directory records contradict each other; {DAMAGED}")
        *disks, here, count, size, start = wide[4:]
    if any(disks) or here != count or start + size != end:
        raise Refusal(f"its directory of members is not where it says; {DAMAGED}")
    return start, end, count


def _entry(data: bytes, position: int, end: int) -> tuple[Member, int]:
    """Parse the entry at `position`; return it and the position behind it."""
    start = position + _ENTRY.size
    if start > end:
        raise Refusal(f"its directory of members ends early; {DAMAGED}")
    (
        mark,
        _,
        _,
        flags,
        method,
        _,
        _,
        crc,
        packed,
        unpacked,
        name_size,
        extra_size,
        comment_size,
    ) = (fields := _ENTRY.unpack_from(data, position))[:13]
    extra = start + name_size
    behind = extra + extra_size + comment_size
    if mark != b"PK\x01\x02" or behind > end:
        raise Refusal(f"its directory of members is damaged; {DAMAGED}")
    raw_name = data[start:extra]
    try:
        name = raw_name.decode("utf-8" if flags & 0x800 else "cp437")
    except UnicodeDecodeError:
        raise Refusal(f"the name of a member is no text; {DAMAGED}") from None
    numbers = [unpacked, packed, fields[-1]]
    if _FULL in numbers:
        numbers = _zip64(data[extra : extra + extra_size], numbers)
    unpacked, packed, offset = numbers
    return Member(name, raw_name, offset, packed, unpacked, crc, method, flags), behind


def _zip64(extra: bytes, numbers: list[int]) -> list[int]:
    """Replace the numbers that are full by those of the zip64 extra field."""
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, position)
        position += 4
        if kind == 1:
            wanted = [i for i, number in enumerate(numbers) if number == _FULL]
            if size < 8 * len(wanted) or position + size > len(extra):
                break
            wide = struct.unpack_from(f"<{len(wanted)}Q", extra, position)
            for i, number in zip(wanted, wide):
                numbers[i] = number
            return numbers
        position += size
    raise Refusal(f"a member lacks its zip64 field; {DAMAGED}")
