"""Records, CSV, and what makes a manifest unusable."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxad.data.manifest import (
    Manifest,
    Record,
    canonical_label,
    problems,
    read_csv,
    some,
    validate,
    write_csv,
)
from jaxad.errors import InputError

HEADER = "path,category,subclass,split,label,mask\n"


def good(path: str, split: str = "train", category: str = "c") -> Record:
    return Record(path, category, "", split, "good")


def make(root: Path, *records: Record, files: bool = True) -> Manifest:
    for name in (n for r in records for n in (r.path, r.mask) if n and files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return Manifest(root, records)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_selection_and_counts(tmp_path: Path) -> None:
    manifest = Manifest(
        tmp_path,
        (
            Record("a", "y", "s2", "train", "good"),
            Record("b", "x", "s1", "train", "good"),
            Record("c", "x", "", "test", "crack", "m"),
            Record("d", "x", "", "test", "good"),
        ),
    )
    assert manifest.categories == ("x", "y")
    assert manifest.subclasses == ("", "s1", "s2")
    assert [r.path for r in manifest.select("x").records] == ["b", "c", "d"]
    assert [r.path for r in manifest.select(split="train").records] == ["a", "b"]
    assert [r.path for r in manifest.select("x", "test").records] == ["c", "d"]
    assert [r.is_good for r in manifest.records] == [True, True, False, True]
    assert manifest.counts() == {
        ("x", "test", "crack"): 1,
        ("x", "test", "good"): 1,
        ("x", "train", "good"): 1,
        ("y", "train", "good"): 1,
    }
    assert len(manifest.select("z")) == 0


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
record = st.builds(
    Record,
    text,
    text,
    text,
    st.sampled_from(["train", "test"]),
    text.map(canonical_label),
    text,
    st.just(""),  # what only layouts say
    st.just(False),
    st.just(""),  # what no data set says
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(record, max_size=6))
def test_csv_round_trip(tmp_path: Path, records: list[Record]) -> None:
    manifest = Manifest(tmp_path, tuple(records))
    write_csv(manifest, tmp_path / "manifest.csv")
    assert read_csv(tmp_path / "manifest.csv") == manifest
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.csv"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text("old")
    broken = Manifest(tmp_path, (good("a"), good("\udcff")))  # not encodable as UTF-8
    assert "is not UTF-8: rename the file" in refusal(lambda: write_csv(broken, path))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.csv"]


def test_reading_is_lenient_where_it_is_safe(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(
        b"\xef\xbb\xbfpath,category,subclass,split,label,mask,note\r\n"
        b'"a, b.png",c,,train,Normal,,x\r\n\r\nd.png,c,s,test,GOOD,,\r\n'
    )
    assert read_csv(path, root="elsewhere") == Manifest(
        Path("elsewhere"),
        (Record("a, b.png", "c", "", "train", "good"), Record("d.png", "c", "s", "test", "good")),
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "no column path, category, subclass, split, label, mask"),
        (b"path,category,split,label\n", "no column subclass, mask"),
        (b"path;category;subclass;split;label;mask\n", "separated by commas"),
        (HEADER.encode() + b"a,c,,train,good\n", "line 2 has 5 fields where the header has 6"),
        (HEADER.encode() + b"a,c,,train,good,\nb,c,d,e,f,g,h\n", "line 3 has 7 fields"),
        (HEADER.encode() + b"\xff\xfe,c,,train,good,\n", "not UTF-8"),
        (HEADER.encode() + b'"a"b,c,,train,good,\n', "line 2 is not CSV"),
        (HEADER.encode() + b"a\0,c,,train,good,\n", "line 2 is not CSV|leave"),
    ],
)
def test_csv_of_another_form(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(content)
    message = refusal(lambda: validate(read_csv(path)))
    assert any(part in message for part in expected.split("|")), message
    assert str(tmp_path) in message


def test_absent_csv(tmp_path: Path) -> None:
    assert "no such manifest" in refusal(lambda: read_csv(tmp_path / "m.csv"))


def test_a_sound_manifest_passes(tmp_path: Path) -> None:
    manifest = make(
        tmp_path, good("a.png"), good("b/b.png", "test"), Record("c", "c", "", "test", "bad", "m")
    )
    assert validate(manifest) is manifest


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], "has no images"),
        ([good("a"), good("b", "val"), good("c", "Test")], "unknown split 'Test', 'val'"),
        ([good("a"), Record("b", "c", "", "test", "")], "label is empty in record 2"),
        ([good("a"), good("b", category="")], "category is empty in record 2"),
        ([good("a"), good("")], "path is empty in record 2"),
        ([good("a"), Record("b", "c", "", "test", "Normal")], "label 'Normal'"),
        ([good("a"), good("b", category="../x")], "category '../x' can not name a folder"),
        ([good("a"), good("b", category="..")], "category '..'"),
        ([good("a", category="x\udce9")], r"category 'x\udce9' can not name a folder: rename"),
        ([good("a"), Record("b", "c", "", "train", "crack")], "1 defective images in train"),
        ([good("a", "test")], "no normal training images in category 'c'"),
        ([good("a"), good("b", "test", "d")], "no normal training images in category 'd'"),
        ([good("a"), good("./a", "test")], "in both train and test: './a'"),
        (
            [good("a"), good("b", "calibration"), good("./b", "test")],
            "in both calibration and test",
        ),
        ([good("a"), good("a", "calibration")], "in both train and calibration: 'a'"),
        (
            [good("a"), Record("b", "c", "", "calibration", "crack")],
            "1 defective images in calibration, where all must be normal: 'b'",
        ),
        ([good("a", "calibration")], "no normal training images in category 'c'"),
        ([good("a"), good("a")], "listed more than once: 'a'"),
        ([good("a"), Record("b", "d", "", "train", "x")], "(and 1 more: see jaxad data check)"),
    ],
)
def test_unusable_content(tmp_path: Path, records: list[Record], expected: str) -> None:
    message = refusal(lambda: validate(make(tmp_path, *records)))
    assert expected in message
    assert message.startswith(str(tmp_path))


def test_missing_files_are_named_and_counted(tmp_path: Path) -> None:
    manifest = make(tmp_path, *(good(f"{i}.png") for i in range(10)), files=False)
    message = refusal(lambda: validate(manifest))
    assert "10 files are missing: '0.png', '1.png', '2.png' and 7 more" in message
    masked = make(tmp_path, good("a"), Record("b", "c", "", "test", "crack"))
    masked = Manifest(tmp_path, (masked.records[0], masked.records[1]._replace(mask="gone.png")))
    assert "1 files are missing: 'gone.png'" in refusal(lambda: validate(masked))
    assert "missing" in refusal(lambda: validate(Manifest(tmp_path, (good("n" * 5000),))))


def test_every_problem_is_found(tmp_path: Path) -> None:
    manifest = make(
        tmp_path,
        good("a"),
        good("a", "test"),
        Record("b", "d", "", "train", "x"),
        good("e", "val"),
    )
    found = list(problems(manifest))
    for part in ("unknown split", "defective images", "no normal training", "in both train"):
        assert sum(part in line for line in found) == 1
    assert len(found) == 4


@pytest.mark.parametrize(
    "name",
    ["../outside.png", "in/../../outside.png", "/outside.png", "C:\\x.png", "\\\\host\\x", "..\\x"],
)
@pytest.mark.parametrize("field", ["path", "mask"])
def test_paths_that_leave_the_root(tmp_path: Path, name: str, field: str) -> None:
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (tmp_path / "outside.png").touch()
    make(root, good("a"), good("b"))
    bad = Record("b", "c", "", "test", "x")._replace(**{field: name})
    message = refusal(lambda: validate(Manifest(root, (good("a"), bad))))
    assert "leave this folder" in message
    assert repr(name) in message


def test_links_that_leave_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    manifest = make(root, good("a"), good("in/b", "test"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    (root / "file_out").symlink_to(tmp_path / "out" / "x")
    (root / "folder_out").symlink_to(tmp_path / "out")
    (root / "file_in").symlink_to(root / "a")
    (root / "folder_in").symlink_to(root / "in")
    (tmp_path / "alias").symlink_to(root)

    def with_path(name: str) -> Manifest:
        return Manifest(root, (*manifest.records, good(name, "test")))

    for name in ("file_out", "folder_out/x"):
        assert "links that leave" in refusal(lambda name=name: validate(with_path(name)))
    for name in ("file_in", "folder_in/b"):
        validate(with_path(name))
    validate(Manifest(tmp_path / "alias", manifest.records))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("tree")
    for folder in ("root/a", "root/b/a", "a", "rootx"):
        (base / folder).mkdir(parents=True)
        (base / folder / "f").touch()
    (base / "root" / "f").touch()
    (base / "root" / "out").symlink_to(base / "a")
    (base / "root" / "up").symlink_to(base)
    (base / "root" / "loop").symlink_to(base / "root" / "loop")
    return base


parts = st.sampled_from(
    [
        "..",
        ".",
        "",
        "a",
        "b",
        "f",
        "out",
        "up",
        "root",
        "rootx",
        "loop",
        "C:",
        "~",
        " ",
        "\\..",
        "n" * 300,
    ]
)


@settings(max_examples=100)
@given(st.lists(parts, min_size=1, max_size=6), st.sampled_from(["/", "\\", "//"]), st.booleans())
def test_what_passes_lies_within_the_root(
    tree: Path, names: list[str], separator: str, absolute: bool
) -> None:
    path = ("/" if absolute else "") + separator.join(names)
    manifest = Manifest(tree / "root", (good(path),))
    if list(problems(manifest)):
        return
    real = Path(os.path.realpath(tree / "root" / path))
    assert real.is_file()
    assert real.is_relative_to(os.path.realpath(tree / "root"))


def test_some_names_few() -> None:
    assert some(["a"]) == "'a'"
    assert some(range(5), 2) == "0, 1 and 3 more"
