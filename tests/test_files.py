"""Files written whole or not at all, paths that stay inside, JSON of strangers."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jaxad import files
from jaxad.errors import InputError
from jaxad.files import confined, make_folder, read_json, write_bytes, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True], "ü\udcff": "\n", "deep": [[[{}]]]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert (tmp_path / "a.json").read_bytes().isascii()
    assert (tmp_path / "a.json").read_text().startswith('{\n  "a": [')
    write_text(tmp_path / "a.txt", "é \udcff\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "é \\udcff\r\n".encode()
    write_bytes(tmp_path / "a.bin", b"\xff\r\n")
    write_bytes(str(tmp_path / "a.bin"), b"\xfe\r\n")
    assert (tmp_path / "a.bin").read_bytes() == b"\xfe\r\n"
    assert names(tmp_path) == ["a.bin", "a.json", "a.txt"]


def test_mode_is_that_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_link_in_the_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    work = tmp_path / "work"
    work.mkdir()
    for name, to in (("file", precious), ("folder", tmp_path), ("nowhere", tmp_path / "new")):
        (work / name).symlink_to(to)
        write_text(work / name, "ours")
        assert not (work / name).is_symlink()
        assert (work / name).read_text() == "ours"
    assert precious.read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_a_link_at_the_temporary_name_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    def listen(path: Any, *args: Any, **kwargs: Any) -> int:
        used.append(Path(path).name)
        return opened(path, *args, **kwargs)

    opened = os.open
    monkeypatch.setattr(files.os, "open", listen)
    write_text(tmp_path / "a", "1")
    write_text(tmp_path / "a", "2")
    assert len(set(used)) == 2  # names that can be foreseen can be occupied
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "known")
    write_text(tmp_path / "a", "3")
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / used[-1]).symlink_to(precious)
    with pytest.raises(InputError, match=r"can not write .*a \("):
        write_text(tmp_path / "a", "4")
    assert precious.read_text() == "mine"
    assert (tmp_path / "a").read_text() == "3"
    assert (tmp_path / used[-1]).is_symlink()  # what is not ours is not removed


FULL = """
import resource, signal, sys
from jaxad.errors import InputError
from jaxad.files import write_bytes
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_bytes(sys.argv[1], b"x" * 100_000)
except InputError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limits here")
def test_no_room_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """The system itself stops the write in its middle, at a limit on the size of files."""
    target = tmp_path / "results.json"
    target.write_text("old")
    ran = subprocess.run(
        [sys.executable, "-c", FULL, target], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"can not write .*results\.json \(.+\): raise the limit.*\n", ran.stdout)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["results.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_a_full_disk_is_noticed_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short file waits in Python's buffer: only flushing it meets the full disk."""
    opened = os.open

    def on_full_disk(path: Any, flags: int, *args: Any) -> int:
        os.close(opened(path, flags, *args))
        return opened("/dev/full", os.O_WRONLY)

    (tmp_path / "page").write_text("old")
    monkeypatch.setattr(files.os, "open", on_full_disk)
    with pytest.raises(InputError, match=r"page \(No space left on device\): free space"):
        write_text(tmp_path / "page", "new")
    monkeypatch.undo()
    assert (tmp_path / "page").read_text() == "old"
    assert names(tmp_path) == ["page"]


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "a", "new")
    assert names(tmp_path) == []


def test_places_that_can_not_be_written_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for path, mend in (
        (tmp_path / "folder", "in the way"),
        (tmp_path / "missing" / "a", "make the folder first"),
        (tmp_path / "file" / "a", "file stands where a folder is needed"),
        (tmp_path / ("x" * 300), "shorter name"),
        (tmp_path / "a\0b", "choose another place"),
    ):
        with pytest.raises(InputError, match=mend) as refused:
            write_text(path, "text")
        assert "\n" not in str(refused.value)
    assert names(tmp_path) == ["file", "folder"]
    for path in (tmp_path / "file", tmp_path / "file" / "a", tmp_path / "a\0b"):
        with pytest.raises(InputError, match="can not make the folder"):
            make_folder(path)
    assert make_folder(tmp_path / "folder" / "b").is_dir()
    assert make_folder(tmp_path / "folder" / "b").is_dir()


def test_paths_stay_below_their_root(tmp_path: Path) -> None:
    root = tmp_path / "work"
    (root / "checkpoints").mkdir(parents=True)
    (root / "inner").symlink_to(root / "checkpoints")
    (root / "out").symlink_to(tmp_path)
    (root / "dangling").symlink_to(tmp_path / "nothing")
    (root / "circle").symlink_to(root / "circle")
    (tmp_path / "link").symlink_to(root)
    (tmp_path / "work_too").mkdir()
    (root / "checkpoints" / "near").symlink_to(tmp_path / "work_too")
    for parts in (("checkpoints", "a"), ("checkpoints/a",), ("inner", "a"), ("new",), (), ("",)):
        assert confined(root, *parts) == root.joinpath(*parts)
        assert confined(tmp_path / "link", *parts) == (tmp_path / "link").joinpath(*parts)
    for parts in (
        ("..", "work_too"),
        ("checkpoints", "../../x"),
        ("checkpoints/../..",),
        ("checkpoints/../new",),
        (str(tmp_path),),
        ("a\0b",),
        ("out",),
        ("out", "work", "checkpoints", "near"),
        ("dangling",),
        ("circle", "a"),
        ("checkpoints", "near", "b"),
    ):
        with pytest.raises(InputError):
            confined(root, *parts)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": "\xff"}', "utf-8"),
        (b"{", "Expecting"),
        (b"", "Expecting"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"9" * 5000, "digits"),
    ],
)
def test_damaged_json_is_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=reason) as refused:
        read_json(tmp_path / "a.json", "the results", "evaluate again")
    assert str(refused.value).startswith(f"the results {tmp_path}")
    assert str(refused.value).endswith(": evaluate again")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", os.strerror(errno.ENOENT)),
        ("endless", "not a regular file"),
        ("pipe", "not a regular file"),
        (".", "not a regular file"),
    ],
)
def test_what_is_no_file_is_not_read(tmp_path: Path, name: str, reason: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=reason):
        read_json(tmp_path / name)


def test_json_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_JSON", 100)
    (tmp_path / "long").write_text(json.dumps("x" * 98))
    assert read_json(tmp_path / "long") == "x" * 98
    (tmp_path / "long").write_text(json.dumps("x" * 99))
    with pytest.raises(InputError, match="more than 100 bytes"):
        read_json(tmp_path / "long")
