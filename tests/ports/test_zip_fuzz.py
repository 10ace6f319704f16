"""Fuzz of `.pth` and `.npz` files whose archive or tensors lie; see `test_torch_file_fuzz`."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import pytest
from fuzz_cases import CASES, FLIPS, TIMES, Flips, check, flipped, fuzz
from hypothesis import given
from hypothesis import strategies as st
from torch_bytes import (
    ZIP,
    Entry,
    deflated,
    dict_,
    members_of,
    one_zip,
    raw_zip,
    storage,
    stream_file,
    tensor,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "case.pth"


NAMES = [
    *(b"../archive/data.pkl", b"/archive/data.pkl", b"archive\\data.pkl", b"archive//data.pkl"),
    *(b"archive/./data.pkl", b"archive/../archive/data.pkl", b"C:\\archive/data.pkl", b"data.pkl"),
    *(b"archive/data.pkl\0", b"archive/data.pkl\0.txt", b"archive/data.pkl/", b"archive/data.pkl "),
    *(b"ARCHIVE/DATA.PKL", b"archive/Data.pkl", "аrchive/data.pkl".encode(), b"\xff\xfe", b""),
    *("archive／data.pkl".encode(), "\u202earchive/data.pkl".encode(), b"archive/data.pkl\r\n"),
    *(b"archive/data/0", b"archive/data/../data.pkl", b"archive/data/00", b"archive/constants.pkl"),
    *(b"archive/byteorder", b"archive/data/" + b"0" * 60_000, b"a/" * 30_000 + b"data.pkl"),
    *(
        b"/etc/passwd",
        b"../../../../etc/passwd",
        b"~/.bashrc",
        b"\\\\host\\share",
        b"x.npy",
        b"NUL",
    ),
]
NUMBERS = st.sampled_from(
    [0, 1, 15, 16, 17, 29, 30, 100, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
)
LIES = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(NAMES),
        "local_name": st.sampled_from(NAMES),
        "offset": NUMBERS,
        "compress_size": NUMBERS,
        "file_size": NUMBERS,
        "crc": NUMBERS,
        "method": st.sampled_from([0, 8, 9, 12, 14, 93, 99]),
        "flags": st.sampled_from([0, 1, 8, 0x20, 0x40, 0x800, 0x2000]),
        "extra": st.binary(max_size=20)
        | st.lists(st.integers(0, 2**64 - 1) | NUMBERS, max_size=4).map(
            lambda wide: struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide)
        ),
        "content": st.binary(max_size=40),
    },
)
ENDS = st.fixed_dictionaries(
    {"zip64": st.booleans()},
    optional={
        "count": NUMBERS,
        "size": NUMBERS,
        "start": NUMBERS,
        "comment": st.binary(max_size=9) | st.just(b"PK\5\6" + bytes(18)),
        "behind": st.sampled_from([b"", b"", b"", b"x"]),
    },
)
END = st.just({}) | st.just({"zip64": True}) | ENDS
MEMBERS = members_of(ZIP)


@fuzz(400)
@given(lies=st.lists(st.tuples(st.integers(0, 5), LIES), max_size=2), end=END)
def test_fuzz_archives_that_lie(
    path: Path, lies: list[tuple[int, dict[str, object]]], end: dict[str, object]
) -> None:
    """Names, places, sizes and methods; a number beyond the members adds one more."""
    entries = list(MEMBERS)
    for place, lie in lies:
        if place < len(entries):
            entries[place] = dataclasses.replace(entries[place], **lie)
        else:
            fields = {"name": b"%d" % len(entries), **lie}
            entries.append(dataclasses.replace(entries[place % len(entries)], **fields))
    check(path, raw_zip(entries, **end))


def npy(dtype: str, shape: tuple[int, ...], content: bytes) -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117)
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.encode() + b"\n" + content


@fuzz(150)
@given(
    size=st.sampled_from([0, 1, 1_000, 3_000_000, 80_000_000]),
    copies=st.sampled_from([0, 1, 50]),
    as_numpy=st.booleans(),
    lie=LIES,
    flips=FLIPS,
)
def test_fuzz_zip_bombs(
    path: Path,
    size: int,
    copies: int,
    as_numpy: bool,
    lie: dict[str, object],
    flips: Flips,
) -> None:
    """Zeros that deflate to a thousandth, alone or as many members that are the same bytes."""
    key = b"0.npy" if as_numpy else b"archive/data/0"
    zeros = ZEROS.get(size) or deflated(key, npy("|u1", (size,), bytes(size)))
    ZEROS[size] = zeros = dataclasses.replace(zeros, name=key)
    state = dict_({"w": tensor(storage("0", size, "Byte"), (size,), (1,))})
    pickle_ = [] if as_numpy else [Entry(b"archive/data.pkl", b"\x80\x02" + state + b".")]
    again = [
        dataclasses.replace(
            zeros, name=b"%d" % i + key, content=b"", compress_size=len(zeros.content), offset=0
        )
        for i in range(copies)
    ]
    check(path, raw_zip([zeros, *again, *pickle_]))
    bomb = dataclasses.replace(zeros, **lie)
    check(path, flipped(raw_zip([bomb, *pickle_]), flips))


ZEROS: dict[int, Entry] = {}
WIDE = st.integers(0, 9) | st.integers(0, 1_000) | NUMBERS
AXIS = st.tuples(st.integers(-1, 9) | WIDE, st.integers(-1, 9) | WIDE)  # size and stride


@fuzz(250)
@given(
    numbers=st.lists(st.tuples(st.lists(AXIS, max_size=9), WIDE | st.integers(-1, 9)), max_size=4),
    total=st.sampled_from([0, 4, 1_000, 1_000, 1_000, -1, 2**40]),
    kind=st.sampled_from(["Float", "BFloat16", "Bool", "Double"]),
)
def test_fuzz_tensors_that_lie(
    path: Path,
    numbers: list[tuple[list[tuple[int, int]], int]],
    total: int,
    kind: str,
) -> None:
    """Sizes, strides and offsets of tensors over one storage."""
    state = dict_(
        {
            str(i): tensor(
                storage("0", total, kind), *([axis[n] for axis in axes] for n in (0, 1)), offset
            )
            for i, (axes, offset) in enumerate(numbers)
        }
    )
    width = {"Float": 4, "BFloat16": 2, "Bool": 1, "Double": 8}[kind]
    content = bytes(width * min(max(total, 0), 1_000))
    check(path, one_zip(state, content))
    check(path, stream_file(state, {"0": (total, content)}))


def test_the_number_of_cases() -> None:
    tests = {name for name in globals() if name.startswith("test_fuzz")}
    if not tests <= CASES.keys():
        pytest.skip("only counted when every fuzz test of this file ran")
    assert sum(CASES[name] for name in tests) >= 1_000 * TIMES
