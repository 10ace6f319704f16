"""The choice of subclasses, and jobs that are tested on each by itself."""

from pathlib import Path

import pytest

from jaxad.data.jobs import jobs
from jaxad.data.layouts import load_dataset
from jaxad.data.manifest import Manifest, Record
from jaxad.data.subclasses import by_subclass, of_subclasses, subset_name
from jaxad.data.synthetic import write_dataset
from jaxad.errors import InputError


def record(category: str, subclass: str, split: str, label: str = "good") -> Record:
    return Record(f"{category}/{subclass}/{split}/{label}.png", category, subclass, split, label)


def manifest_of(*records: Record) -> Manifest:
    return Manifest(Path("top"), records)


def whole(category: str, *subclasses: str) -> list[Record]:
    places = (("train", "good"), ("test", "good"), ("test", "cut"))
    return [record(category, s, split, label) for s in subclasses for split, label in places]


def kept(manifest: Manifest, split: str) -> set[tuple[str, str]]:
    return {(r.category, r.subclass) for r in manifest.records if r.split == split}


def refusal(manifest: Manifest, **wanted: tuple[str, ...]) -> str:
    with pytest.raises(InputError) as caught:
        of_subclasses(manifest, **wanted)
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith("top: ")
    return str(caught.value)


def test_each_split_by_its_own_choice() -> None:
    manifest = manifest_of(*whole("x", "a", "b", "c"), record("x", "", "test"))
    assert of_subclasses(manifest) == manifest
    unseen = of_subclasses(manifest, train=("b", "a"), test=("c",))
    assert kept(unseen, "train") == {("x", "a"), ("x", "b")}
    assert kept(unseen, "test") == {("x", "c")}
    assert [r.label for r in unseen.records if r.split == "test"] == ["good", "cut"]
    assert [r for r in manifest.records if r in unseen.records] == list(unseen.records)
    half = of_subclasses(manifest, train=("a",))
    assert kept(half, "train") == {("x", "a")}
    assert kept(half, "test") == kept(manifest, "test")


def test_thresholds_are_set_by_the_subclasses_that_are_learnt() -> None:
    own = [record("x", s, "calibration") for s in ("a", "b")]
    found = of_subclasses(manifest_of(*whole("x", "a", "b"), *own), train=("a",))
    assert kept(found, "calibration") == {("x", "a")}
    assert own[1] in found.aside
    assert own[1] not in found.records


def test_names_that_are_not_there() -> None:
    manifest = manifest_of(*whole("x", "a", "b"), record("x", "late", "test"))
    message = refusal(manifest, train=("a", "z", "late"))
    assert "data.train_subclasses names 'z', 'late', of which there are no train images" in message
    assert message.endswith(": there are a, b")
    assert refusal(manifest, test=("z",)).endswith(": there are a, b, late")
    plain = manifest_of(record("x", "", "train"), record("x", "", "test"))
    assert refusal(plain, test=("z",)).endswith("there are no subclasses")


def test_no_category_goes_empty() -> None:
    manifest = manifest_of(*whole("x", "a", "b"), *whole("y", "b"), record("z", "b", "train"))
    message = refusal(manifest, train=("a",))
    assert "data.train_subclasses leaves category 'y', 'z' no train images" in message
    assert "data.test_subclasses leaves category 'y' no test images" in refusal(
        manifest, test=("a",)
    )
    # z never had any test images.
    assert kept(of_subclasses(manifest, test=("b",)), "test") == {("x", "b"), ("y", "b")}


def test_names_of_results() -> None:
    assert subset_name(record("x", "a", "test")) == "x-a"
    twice = manifest_of(*whole("x", "y-a"), *whole("x-y", "a"))
    assert "subclass 'a' of category 'x-y' can not name results" in refusal(
        twice, test=("a", "y-a")
    )
    assert "subclass 'a/b' of category 'x'" in refusal(
        manifest_of(*whole("x", "a/b")), test=("a/b",)
    )
    # Only results of single subclasses need such names.
    assert len(of_subclasses(twice, train=("a", "y-a"))) == 6


def test_divided_in_the_order_named() -> None:
    records = tuple(whole("x", "a", "b"))
    assert by_subclass("x", records, ()) == {"x": records}
    assert list(by_subclass("x", records, ("b", "none", "a")).items()) == [
        ("x-b", records[3:]),
        ("x-a", records[:3]),
    ]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("textures")
    write_dataset(
        root,
        layout="texture_ad",
        categories=("cloth", "wafer"),
        subclasses=("a", "b", "c"),
        n_train=2,
        n_test_good=1,
        n_test_bad=1,
        size=(24, 24),
    )
    return root


def test_jobs_of_unseen_subclasses(tree: Path) -> None:
    manifest = load_dataset("texture_ad", tree)
    first, second = jobs(manifest)
    assert [list(job.test) for job in (first, second)] == [["cloth"], ["wafer"]]
    assert (len(first.train), len(first.test["cloth"])) == (6, 6)
    unseen = of_subclasses(manifest, train=("a",), test=("c", "b"))
    first, second = jobs(unseen, test_subclasses=("c", "b"))
    assert (first.name, list(first.test)) == ("cloth", ["cloth-c", "cloth-b"])
    assert {r.subclass for r in first.train} == {"a"}
    assert {r.subclass for r in first.test["cloth-b"]} == {"b"}
    (job,) = jobs(unseen, one_for_all=True, test_subclasses=("c", "b"))
    assert list(job.test) == ["cloth-c", "cloth-b", "wafer-c", "wafer-b"]
    assert {(r.category, r.subclass) for r in job.train} == {("cloth", "a"), ("wafer", "a")}
    with pytest.raises(InputError, match="names 'd', of which there are no test images"):
        of_subclasses(manifest, test=("c", "d"))
