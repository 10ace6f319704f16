"""What each detector of a run learns from, and what it is judged on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from jaxad.data.manifest import Manifest, Record
from jaxad.data.subclasses import by_subclass


class Job(NamedTuple):
    """One detector: what it is trained on, and the categories it is tested on."""

    name: str
    train: tuple[Record, ...]
    test: dict[str, tuple[Record, ...]]
    """By category, or by `subset_name` where single subclasses are asked for."""
    calibration: Mapping[str, tuple[Record, ...]] = MappingProxyType({})
    """By category: normal photos that nothing is trained on, to set thresholds by."""


def jobs(
    manifest: Manifest, *, one_for_all: bool = False, test_subclasses: Sequence[str] = ()
) -> list[Job]:
    """Split a data set into detectors: one a category, or one for all.

    Args:
      manifest: The data set.
      one_for_all: One detector, "all", for all categories.
      test_subclasses: Each is tested by itself; none: each category as a whole.
    """
    by_category = {name: manifest.select(name) for name in manifest.categories}
    train = {n: m.select(split="train").records for n, m in by_category.items()}
    calibration = {n: m.select(split="calibration").records for n, m in by_category.items()}
    test = {
        n: by_subclass(n, m.select(split="test").records, test_subclasses)
        for n, m in by_category.items()
    }
    if one_for_all:
        together = tuple(r for records in train.values() for r in records)
        tested = {k: v for sets in test.values() for k, v in sets.items()}
        return [Job("all", together, tested, calibration)]
    return [Job(name, train[name], test[name], {name: calibration[name]}) for name in by_category]


def name_list(text: str) -> tuple[str, ...]:
    """Split a comma-separated list of names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
