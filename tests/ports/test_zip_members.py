"""Zip archives: what other programs write, and directories that lie."""

from __future__ import annotations

import dataclasses
import io
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from torch_bytes import (
    FOUR,
    GOLDEN,
    STATE,
    ZIP,
    Entry,
    deflated,
    dict_,
    members_of,
    one_zip,
    raw_zip,
    refused,
    storage,
    tensor,
    text,
    within_a_second,
    zip_file,
)

from ports.read import decode_npz
from ports.source import Refusal
from ports.torch_file import decode_torch
from ports.zip_members import MAX_MEMBERS, list_members, read_member

GOOD = members_of(one_zip(dict_({"w": FOUR})))
ZIPS = [ZIP] + [
    path.read_bytes() for path in sorted(GOLDEN.glob("zip_*.pth")) if "no_crc" not in path.name
]


@pytest.mark.parametrize("data", ZIPS)
def test_the_same_members_as_zipfile_finds(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        expected = {info.filename: archive.read(info) for info in archive.infolist()}
    members = list_members(data)
    assert list(members) == list(expected)
    for name, content in expected.items():
        assert bytes(read_member(data, members[name], most=len(data))) == content
        with pytest.raises(Refusal, match="more than this file may"):
            read_member(data, members[name], most=len(content) - 1)


def test_deflated_members_and_a_comment() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b"made by hand"
        archive.writestr("ä.npy", bytes(1000))
    member = list_members(file.getvalue())["ä.npy"]
    assert member.compress_size < 100
    assert read_member(file.getvalue(), member, most=1000, compressed=True) == bytes(1000)
    with pytest.raises(Refusal, match="compressed or encrypted"):
        read_member(file.getvalue(), member, most=1000)


def test_zip64_as_torch_and_zipfile_write_it() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, archive.open("a", "w", force_zip64=True) as member:
        member.write(b"content")
    members = list_members(file.getvalue())
    assert read_member(file.getvalue(), members["a"], most=7) == b"content"
    data = raw_zip(GOOD, zip64=True)
    assert list(decode_torch(data)) == ["w"]
    # The numbers of an entry may stand in its extra field, behind other fields.
    wide = dataclasses.replace(
        GOOD[1],
        compress_size=2**32 - 1,
        file_size=2**32 - 1,
        extra=struct.pack("<HH3sHH2Q", 9, 3, b"abc", 1, 16, 16, 16),
    )
    assert list(decode_torch(raw_zip([GOOD[0], wide]))) == ["w"]
    for extra in (b"", wide.extra[:-1], struct.pack("<HHQ", 1, 8, 16), b"\1\0\xff\xff", b"abc"):
        bad = dataclasses.replace(wide, extra=extra)
        assert "zip64" in refused(raw_zip([GOOD[0], bad]))


def test_member_names_are_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    key = "../../../outside"
    data = zip_file(dict_({"w": tensor(storage(key, 4), (4,), (1,))}), {key: bytes(16)})
    assert decode_torch(data)["w"].shape == (4,)  # a key like any other
    (tmp_path / "secret").write_bytes(bytes(16))
    for name in ("../secret", str(tmp_path / "secret"), "secret", "a\nb"):
        state = dict_({"w": tensor(storage(name, 4), (4,), (1,))})
        assert "has no member" in refused(zip_file(state, {}))
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_a_name_is_not_cut_at_a_nul() -> None:
    named = dataclasses.replace(GOOD[0], name=b"archive/data.pkl\0.txt")
    assert "torch.save did not write" in refused(raw_zip([named, GOOD[1]]))
    both = [*GOOD, dataclasses.replace(named, content=b"nothing")]
    assert list(decode_torch(raw_zip(both))) == ["w"]


def test_compressed_members_are_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + STATE + b".")
        archive.writestr("archive/data/0", bytes(50_000_000))
    assert "compressed" in refused(file.getvalue())


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        ({"compress_size": 2**32 - 2}, "reach into their directory"),
        ({"compress_size": 17}, "another length"),
        ({"compress_size": 15}, "another length"),
        ({"file_size": 2**32 - 2}, "more than this file may"),
        ({"file_size": 5}, "another length"),
        ({"crc": 1}, "another checksum"),
        ({"offset": 2**31}, "reach into their directory"),
        ({"offset": 1}, "lies over another one"),
        ({"flags": 1}, "encrypted"),
        ({"flags": 0x40}, "encrypted"),
        ({"method": 12}, "compressed"),
        ({"local_name": b"archive/data/1"}, "not where the directory says"),
        ({"local_name": b""}, "not where the directory says"),
        ({"name": b"archive/data/\xff", "flags": 0x800}, "no text"),
        ({"name": b"archive/data.pkl"}, "two members of one name"),
        ({"name": b"archive/Data/0"}, "has no member 'data/0'"),
    ],
)
def test_members_that_lie(lie: dict[str, object], says: str) -> None:
    assert says in refused(raw_zip([GOOD[0], dataclasses.replace(GOOD[1], **lie)]))


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        ({"count": 1}, "another length than it says"),
        ({"count": 3}, "ends early"),
        ({"count": 0}, "another length than it says"),
        ({"count": MAX_MEMBERS + 1}, f"more than {MAX_MEMBERS} members"),
        ({"size": 10}, "not where it says"),
        ({"start": 0}, "not where it says"),
        ({"behind": b"x"}, "bytes behind its end"),
        ({"behind": bytes(70_000)}, "ends early"),
    ],
)
@pytest.mark.parametrize("zip64", [False, True])
def test_directories_that_lie(lie: dict[str, object], says: str, zip64: bool) -> None:
    assert says in refused(raw_zip(GOOD, zip64=zip64, **lie))


def test_two_directories_that_contradict_each_other() -> None:
    data = raw_zip(GOOD, zip64=True)
    for count in (1, 3):
        two = data[:-14] + struct.pack("<2H", count, count) + data[-10:]
        assert "contradict" in refused(two)
    for byte in (0, 4, 12, 16):  # of the zip64 record: mark, its size, versions, disk
        broken = bytearray(data)
        broken[data.index(b"PK\6\6") + byte] ^= 1
        if byte != 12:
            refused(bytes(broken))


def test_archives_of_other_programs() -> None:
    assert "TorchScript" in refused(zip_file(STATE, {}, **{"constants.pkl": b""}))
    assert "torch.save did not write" in refused(zip_file(STATE, {}, **{"b/data.pkl": b""}))
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    refused(empty.getvalue())
    assert "ends early" in refused(b"PK\x03\x04" + b"PK\x01\x02" * 20_001)


# --- Bombs ---


def many(count: int, content: bytes) -> bytes:
    """Members of different names that are all the same bytes."""
    base = Entry(b"x", content)
    pickle = b"\x80\x02}" + b"".join(
        text(str(i)) + tensor(storage(str(i), len(content) // 4), (1,), (1,)) + b"s"
        for i in range(count)
    )
    crc = zlib.crc32(content)
    shared = [
        Entry(
            f"archive/data/{i}".encode(),
            b"",
            offset=0,
            compress_size=len(content),
            file_size=len(content),
            crc=crc,
        )
        for i in range(count)
    ]
    return raw_zip([base, Entry(b"archive/data.pkl", pickle + b"."), *shared])


def test_one_block_can_not_be_read_many_times() -> None:
    data = many(3_000, bytes(400_000))  # 1.2 GB of CRC
    within_a_second(lambda: refused(data))
    assert "lies over another one" in refused(data)


def test_deflated_members_may_not_share_a_block() -> None:
    header = b"\x93NUMPY\x01\x00\x76\x00" + (
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (2000000,), }".ljust(117) + b"\n"
    )
    bomb = deflated(b"0.npy", header + bytes(2_000_000))
    again = [
        dataclasses.replace(
            bomb, name=b"%d.npy" % i, content=b"", compress_size=len(bomb.content), offset=0
        )
        for i in range(1, 100)
    ]
    assert decode_npz(raw_zip([bomb]))["0"].shape == (2_000_000,)
    tracemalloc.start()
    with pytest.raises(Refusal, match="lies over another one"):
        decode_npz(raw_zip([bomb, *again]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_no_more_is_unpacked_than_the_directory_says() -> None:
    bomb = dataclasses.replace(deflated(b"0.npy", bytes(50_000_000)), file_size=1_000)
    data = raw_zip([bomb])
    tracemalloc.start()
    with pytest.raises(Refusal, match="another length than the directory says"):
        decode_npz(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_many_members_end_within_a_second() -> None:
    entries = [Entry(b"%d" % i, b"") for i in range(MAX_MEMBERS)]
    most, more = raw_zip(entries), raw_zip([*entries, Entry(b"one", b"")])
    assert "torch.save did not write" in refused(most)
    assert "more than" in refused(more)
    within_a_second(lambda: (refused(most), refused(more)))


def test_many_small_storages_end_within_a_second() -> None:
    count = 5_000
    state = dict_({str(i): tensor(storage(str(i), 1), (1,), (1,)) for i in range(count)})
    data = zip_file(state, {str(i): np.float32(i).tobytes() for i in range(count)})
    assert decode_torch(data)["4999"] == 4999
    within_a_second(lambda: decode_torch(data))
