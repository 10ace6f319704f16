"""A file is taken byte for byte as it was written, or named."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxad.errors import InputError
from jaxad.export import archive

MEMBERS = {name: name.encode() * 7 for name in archive.REQUIRED}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "part.jaxad"
    path.write_bytes(archive.pack(MEMBERS))
    return path


def read(path: Path) -> dict[str, bytes]:
    return {name: bytes(data) for name, data in archive.read(path)}


def test_members_come_back_and_any_zip_program_reads_them(path: Path) -> None:
    assert read(path) == MEMBERS
    with zipfile.ZipFile(path) as other:
        assert other.testzip() is None
        assert {name: other.read(name) for name in other.namelist()} == MEMBERS
    assert list(read(path)) == [name for name in archive.MOST_BYTES if name in MEMBERS]


def test_every_flipped_bit_is_named_in_one_line(path: Path) -> None:
    whole = path.read_bytes()
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        with pytest.raises(InputError) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_file_cut_anywhere_or_with_more_behind_is_named(path: Path) -> None:
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match=str(path)):
            read(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(InputError, match="is not the zip's end"):
        read(path)


def zipped(*names: str, method: int = zipfile.ZIP_STORED, size: int = 10) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name in names:
            made.writestr(name, b"\0" * size)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "does not begin as its zip"),
        (b"no zip at all", "does not begin as its zip"),
        (zipped("data.pkl"), "has 'data.pkl' where manifest.json"),
        (zipped("../manifest.json"), "has '../manifest.json' where"),
        (zipped("manifest.json", "manifest.json"), "is damaged"),
        (zipped("manifest.json", method=zipfile.ZIP_DEFLATED, size=10**7), "is damaged"),
        (archive.pack({"program.mlir": b"", "manifest.json": b""})[:40] + b"PK\3\4", "is damaged"),
        (np.lib.format.MAGIC_PREFIX, "does not begin as its zip"),
    ],
)
def test_other_files_are_named(data: bytes, told: str, path: Path) -> None:
    path.write_bytes(data)
    with pytest.raises(InputError, match=told):
        read(path)


def test_what_can_not_be_read_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, told in (("pipe", "no file"), ("", "no file"), ("absent", "No such file")):
        with pytest.raises(InputError, match=told):
            read(tmp_path / name)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="more than any exported detector has"):
        read(tmp_path / "huge")


def test_a_member_that_says_it_is_huge_is_refused_before_it_is_read(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[18:26] = (1 << 30).to_bytes(4, "little") * 2
    path.write_bytes(data)
    with pytest.raises(InputError, match="more than any"):
        read(path)
    with pytest.raises(InputError, match="at most"):
        archive.pack({"manifest.json": bytes(archive.MOST_BYTES["manifest.json"] + 1)})
