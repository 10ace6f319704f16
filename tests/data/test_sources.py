"""What a user names becomes photos in one order, whatever lies there, in constant memory."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from jaxad.data import sources
from jaxad.data.sources import Photo, Sources, check_regular
from jaxad.errors import InputError


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree, which names of tests are relative to."""
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "p/2.png", "p/10.JPG", "p/b/1.tif", "p/a/1.png", "p/a/note.txt", "p/.x.png")
    touch(tmp_path, "p/.hidden/1.png")
    return tmp_path


def paths(*names: str, listed: bytes | None = None, but: Path | None = None) -> list[str]:
    found = Sources(names, listed=None if listed is None else io.BytesIO(listed), but=but)
    first = [photo.path for photo in found]
    assert first == [photo.path for photo in found]
    return first


def test_a_folder_is_all_below_it_files_first_sorted(root: Path) -> None:
    every = ["p/10.JPG", "p/2.png", "p/a/1.png", "p/b/1.tif"]
    assert paths("p") == every
    assert paths("p/") == every
    assert [photo.below for photo in Sources(["p/"])][2] == "a/1.png"
    assert paths("p/b", "p/2.png", "p/a/note.txt") == ["p/b/1.tif", "p/2.png", "p/a/note.txt"]
    assert list(Sources(["p/2.png"])) == [Photo("p/2.png", "2.png")]
    assert Sources(["p"]).is_one_folder
    assert not Sources(["p/2.png"]).is_one_folder


def test_the_folder_of_results_is_left_out(root: Path) -> None:
    touch(root, "p/out/overlays/2.png")
    assert paths("p", but=Path("p/out")) == paths("p", but=root / "p" / "out")
    assert len(paths("p", but=Path("p/out"))) == len(paths("p")) - 1
    assert paths("p/**/*.png", but=Path("p/out")) == ["p/2.png", "p/a/1.png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("p/*.png", ["p/2.png"]),
        ("p/*/1.*", ["p/a/1.png", "p/b/1.tif"]),
        ("p/[ab]", ["p/a/1.png", "p/b/1.tif"]),
        ("p/**/*.png", ["p/2.png", "p/a/1.png"]),
        ("p/**", ["p/10.JPG", "p/2.png", "p/a/1.png", "p/b/1.tif"]),
        ("**/1.png", ["p/a/1.png"]),
        ("p/**/a/*", ["p/a/1.png"]),
        ("p/.h*", ["p/.hidden/1.png"]),
        ("?/b/1.tif", ["p/b/1.tif"]),
    ],
)
def test_patterns(root: Path, pattern: str, expected: list[str]) -> None:
    assert paths(pattern) == expected
    assert paths(f"{root}/{pattern}") == [f"{root}/{name}" for name in expected]


def test_a_file_named_like_a_pattern_is_itself(root: Path) -> None:
    touch(root, "p/[ab].png")
    assert paths("p/[ab].png") == ["p/[ab].png"]


@pytest.mark.parametrize(
    "listed",
    [b"p/2.png\n\nnot there.png", b"p/2.png\r\nnot there.png\r\n", b"p/2.png\0not there.png"],
)
def test_lists(root: Path, listed: bytes) -> None:
    assert paths("-", listed=listed) == ["p/2.png", "not there.png"]
    assert paths("p/a", "-", listed=listed) == ["p/a/1.png", "p/2.png", "not there.png"]


def test_long_lists_are_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_LONGEST", 7)
    names = [f"{n}.png" for n in range(50)]
    assert paths("-", listed="\n".join(names).encode()) == names
    assert paths("-", listed=b"".join(n.encode() + b"\0" for n in names)) == names
    with pytest.raises(InputError, match="longer than any path"):
        paths("-", listed=b"x" * 20)
    assert paths("-", listed=b"") == []


def test_names_are_sorted_in_parts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"q/{n * 7 % 100:03}.png" for n in range(100)]
    touch(root, *names, "q/line\nbreak.png")
    monkeypatch.setattr(sources, "_PART", 9)
    assert paths("q") == [*sorted(names), "q/line\nbreak.png"]


def test_bytes_that_are_no_text(root: Path) -> None:
    name = os.fsdecode(b"q\xe9.png")
    touch(root, f"n/{name}")
    assert paths("n") == [f"n/{name}"]
    assert paths("-", listed=b"n/q\xe9.png\n") == [f"n/{name}"]


def test_links_are_followed_but_not_in_circles(root: Path) -> None:
    touch(root, "far/1.png")
    (root / "p/z").symlink_to(root / "far")
    (root / "p/again").symlink_to(root / "far")
    (root / "far/up").symlink_to(root / "p")
    (root / "p/self.png").symlink_to(root / "p/self.png")
    (root / "p/gone.png").symlink_to(root / "nowhere")
    found = paths("p")
    assert found.count("p/again/1.png") == 1
    assert not [name for name in found if name.startswith(("p/z/", "p/again/up"))]
    assert {"p/self.png", "p/gone.png"} < set(found)  # so that the table says what is wrong
    assert "p/again/1.png" not in paths("p/**/*.png")


def test_folders_too_deep_in_each_other(root: Path) -> None:
    Path("deep/" + "d/" * 210).mkdir(parents=True)
    with pytest.raises(InputError, match="more than 200 folders"):
        paths("deep")
    with pytest.raises(InputError, match="more than 200 folders"):
        paths("deep/**/*.png")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "name photos"),
        (["nowhere"], "nowhere: no such file or folder"),
        (["a\0b"], "no such file or folder"),
        (["-"], "can be named once"),
        (["p/a/../none"], "no such file or folder"),
    ],
)
def test_what_is_not_there(root: Path, names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sources(names)


def test_nothing_of_use(root: Path) -> None:
    (root / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no photo"):
        paths("p", "empty")
    with pytest.raises(InputError, match=r"no photo is named like p/\*\.bmp"):
        paths("p/*.bmp")
    with pytest.raises(InputError, match="can be named once"):
        Sources(["-", "-"], listed=io.BytesIO(b"x"))


def test_only_plain_files_are_opened(root: Path) -> None:
    os.mkfifo("p/pipe.png")
    check_regular("p/2.png")
    for name, told in (("p/pipe.png", "no plain file"), ("p/no", "no such file"), ("p", "plain")):
        with pytest.raises(InputError, match=told):
            check_regular(name)
    with pytest.raises(InputError, match="can not be read"):
        check_regular("x" * 300)
