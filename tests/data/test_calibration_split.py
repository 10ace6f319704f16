"""Which photos are held back to set thresholds by, and which are in two splits by content."""

import hashlib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from jaxad.data.calibration_split import LEAST, hold_calibration, leaks
from jaxad.data.manifest import Manifest, Record

Digests = dict[tuple[str, str], str]


def record(name: str, split: str = "train", category: str = "c", subclass: str = "") -> Record:
    return Record(name, category, subclass, split, "good")


def digest(content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()


def photos(contents: list[int], category: str = "c") -> tuple[Manifest, Digests]:
    """A category of photos that hold these."""
    records = tuple(record(f"{i}.png", category=category) for i in range(len(contents)))
    digests = {("", r.path): digest(x) for r, x in zip(records, contents)}
    return Manifest(Path("top"), records), digests


def held(contents: list[int], share: float) -> set[int]:
    """The contents that are held back."""
    manifest, digests = photos(contents)
    found = hold_calibration(manifest, share, digests)
    assert [r._replace(split="train") for r in found.records] == list(manifest.records)
    sides = {split: set[int]() for split in ("train", "calibration")}
    for r, content in zip(found.records, contents):
        sides[r.split].add(content)
    assert not sides["train"] & sides["calibration"]  # equal photos stay together
    assert sides["train"] or not contents
    return sides["calibration"]


def below(contents: set[int], share: float) -> set[int]:
    return {x for x in contents if int(digest(x), 16) < share * 2**256}


sets = st.sets(st.integers(0, 10**6), max_size=60)


@given(sets, st.floats(0.001, 0.5), st.randoms())
def test_how_many_and_which(contents: set[int], share: float, random: object) -> None:
    found = held([*contents], share)
    assert len(found) <= len(contents) // 2
    assert len(found) >= min(LEAST, len(contents) // 2)
    if LEAST <= len(below(contents, share)) <= len(contents) // 2:
        assert found == below(contents, share)
    mixed = sorted(contents, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert held(mixed * 2, share) == found  # by content alone, and once for each


@given(sets, st.integers(0, 10**6), st.floats(0.001, 0.5))
def test_a_photo_that_is_added_moves_one_other_at_most(
    contents: set[int], more: int, share: float
) -> None:
    before, after = held([*contents], share), held([*contents, more], share)
    assert len((before ^ after) - {more}) <= 1
    assert held([*contents, *contents], share) == before


@given(st.sets(st.integers(0, 10**6), max_size=40))
def test_with_many_photos_none_moves(more: set[int]) -> None:
    many = set(range(300))
    assert len(below(many, 0.1)) >= LEAST
    before, after = held([*many], 0.1), held([*many, *(more - many)], 0.1)
    assert before == below(many, 0.1)
    assert after == below(many | more, 0.1)
    assert after & many == before


def test_no_share_and_one_photo_give_none() -> None:
    assert not held([*range(100)], 0)
    assert not held([1], 0.5)
    assert not held([1, 1, 1], 0.5)
    assert not held([], 0.5)


def test_every_category_by_itself_unless_it_has_its_own() -> None:
    (a, digests), (b, of_b) = photos([*range(50)]), photos([*range(50)], "d")
    assert digests == of_b
    own = record("own.png", "calibration", "d")
    test = record("test.png", "test")
    every = Manifest(Path("top"), (*a.records, *b.records, own, test), aside=a.records)
    digests |= {("", "own.png"): digest("own"), ("", "test.png"): digest(0)}
    found = hold_calibration(every, 0.1, digests)
    assert found.aside == a.records
    assert found.select("c") == Manifest(
        every.root, (*hold_calibration(a, 0.1, digests).records, test)
    )
    assert len(found.select("c", "calibration")) == LEAST
    assert found.select("d") == every.select("d")
    assert hold_calibration(every, 0.0, digests) == every


def test_each_subclass_keeps_a_photo_to_train_on() -> None:
    records = tuple(record(f"{i}.png", subclass=f"s{i // 2}") for i in range(40))
    digests = {("", r.path): digest(i) for i, r in enumerate(records)}
    found = hold_calibration(Manifest(Path("top"), records), 0.5, digests)
    assert found.select(split="train").subclasses == Manifest(Path("top"), records).subclasses
    assert len(found.select(split="calibration")) == 20


def test_photos_that_were_not_read_stay() -> None:
    manifest, digests = photos([*range(30)])
    del digests["", "3.png"]
    found = hold_calibration(manifest, 0.5, digests)
    assert found.records[3].split == "train"
    assert len(found.select(split="calibration")) == 14


def test_leaks() -> None:
    records = [
        *(record(f"train/{i}.png") for i in range(6)),
        *(record(f"test/{i}.png", "test") for i in range(6)),
        record("calibration/0.png", "calibration"),
        record("other/0.png", "test", "d"),
    ]
    digests = {("", r.path): digest(r.path) for r in records}
    manifest = Manifest(Path("top"), tuple(records))
    assert list(leaks(manifest, digests)) == []
    digests["", "other/0.png"] = digests["", "train/0.png"]  # of another category
    assert list(leaks(manifest, digests)) == []
    digests |= {("", f"test/{i}.png"): digests["", f"train/{i}.png"] for i in range(4)}
    digests["", "calibration/0.png"] = digests["", "test/5.png"]
    assert list(leaks(manifest, digests)) == [
        "top: 4 photos of train are in test, too, by content: 'train/0.png = test/0.png', "
        "'train/1.png = test/1.png', 'train/2.png = test/2.png' and 1 more: keep each in one of "
        "them",
        "top: 1 photos of calibration are in test, too, by content: "
        "'calibration/0.png = test/5.png': keep each in one of them",
    ]
