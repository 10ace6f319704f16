"""What each detector of a run is trained and tested on."""

from pathlib import Path

from jaxad.data.jobs import jobs, name_list
from jaxad.data.manifest import Manifest, Record

SPLITS = ("train", "calibration", "test")


def record(category: str, subclass: str, split: str, label: str = "good") -> Record:
    return Record(f"{category}/{subclass}/{split}/{label}.png", category, subclass, split, label)


RECORDS = tuple(
    record(category, subclass, split, label)
    for category in ("y", "x")
    for subclass in ("a", "b")
    for split, label in (*((split, "good") for split in SPLITS), ("test", "cut"))
)
DATA = Manifest(Path("top"), RECORDS)


def of(category: str, split: str) -> tuple[Record, ...]:
    return tuple(r for r in RECORDS if (r.category, r.split) == (category, split))


def test_one_detector_each() -> None:
    first, second = jobs(DATA)
    assert (first.name, second.name) == ("x", "y")
    assert first.train == of("x", "train")
    assert first.test == {"x": of("x", "test")}
    assert first.calibration == {"x": of("x", "calibration")}
    assert second.test == {"y": of("y", "test")}


def test_one_for_all() -> None:
    (job,) = jobs(DATA, one_for_all=True)
    assert job.name == "all"
    assert job.train == of("x", "train") + of("y", "train")
    assert job.test == {"x": of("x", "test"), "y": of("y", "test")}
    assert job.calibration == {c: of(c, "calibration") for c in ("x", "y")}


def test_single_subclasses() -> None:
    first, _ = jobs(DATA, test_subclasses=("b", "a"))
    assert first.test == {
        f"x-{s}": tuple(r for r in of("x", "test") if r.subclass == s) for s in ("b", "a")
    }
    (job,) = jobs(DATA, one_for_all=True, test_subclasses=("b",))
    assert list(job.test) == ["x-b", "y-b"]


def test_lists_of_names() -> None:
    assert name_list("") == ()
    assert name_list(" a, b,,c d ,") == ("a", "b", "c d")
