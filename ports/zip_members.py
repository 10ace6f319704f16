"""Members of a zip archive held in memory, read in place and never written to disk."""

from __future__ import annotations

import io
import zipfile
import zlib

from ports.source import DAMAGED, Refusal

MAX_MEMBERS = 20_000
"""EfficientNet-B7 has about 1,400 tensors, each a member."""


def list_members(data: bytes) -> dict[str, zipfile.ZipInfo]:
    """List the members of an archive by name, which is only ever a key.

    Raises:
        Refusal: damaged, too many members, or two of the same name.
    """
    # Counted before the directory is parsed: each entry costs ten times its bytes as an object.
    if data.count(b"PK\x01\x02") > MAX_MEMBERS:
        raise Refusal(f"it is a zip archive of more than {MAX_MEMBERS} members; no weight file is")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
    except Exception:  # zipfile raises half a dozen unrelated kinds on damaged archives
        raise Refusal(DAMAGED) from None
    members = {info.filename: info for info in infos}
    if len(members) != len(infos):
        raise Refusal("it is a zip archive with two members of one name; " + DAMAGED)
    return members


def read_member(
    data: bytes, info: zipfile.ZipInfo, *, most: int, compressed: bool = False
) -> memoryview:
    """Return the content of one member: a view of `data`, or new bytes where it was deflated.

    Args:
        data: the archive.
        info: the member's entry in the directory.
        most: bytes that the member may unpack to.
        compressed: accept deflate.

    Raises:
        Refusal: damaged (bounds, size or CRC), encrypted, compressed in another way, or too large.
    """
    shown = ascii(info.filename[:100])
    if info.flag_bits & 1 or info.compress_type not in ((0, 8) if compressed else (0,)):
        raise Refusal(f"member {shown} is compressed or encrypted; save the weights again")
    start = info.header_offset
    if not 0 <= start <= len(data) - 30 or data[start : start + 4] != b"PK\x03\x04":
        raise Refusal(DAMAGED)
    # The local header repeats the name and may have other extra fields than the directory.
    start += 30 + int.from_bytes(data[start + 26 : start + 28], "little")
    start += int.from_bytes(data[info.header_offset + 28 : info.header_offset + 30], "little")
    content = memoryview(data)[start : start + info.compress_size]
    if len(content) != info.compress_size:
        raise Refusal(DAMAGED)
    if info.file_size > most:
        raise Refusal(f"member {shown} unpacks to {info.file_size} bytes, more than this file may")
    if info.compress_type == 8:
        inflate = zlib.decompressobj(-15)
        try:
            content = memoryview(inflate.decompress(content, info.file_size + 1))
        except zlib.error:
            raise Refusal(DAMAGED) from None
    # torch.serialization.set_crc32_options(False) leaves every CRC at 0.
    if len(content) != info.file_size or (info.CRC and zlib.crc32(content) != info.CRC):
        raise Refusal(DAMAGED)
    return content
