"""Where a training stands, kept between its steps so that it can go on from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxad.errors import InputError
from jaxad.training.feature_cache import HostFeatures


class Standing(NamedTuple):
    """Where a training stands."""

    phase: int
    """Number of the phase that comes or is under way."""
    step: int
    """Steps of it that are done."""
    steps: int
    """Of the whole phase; 0 at its start, where nothing depends on it."""
    batch: int
    """Elements that a step sees; 0 at the start of a phase."""
    seconds: dict[str, float]
    """Spent so far."""


class Keeper(Protocol):
    """Keeps one detector's training."""

    def due(self, steps: int) -> bool:
        """Whether so many steps since the last time, or the time, make it due to keep."""

    def keep(self, standing: Standing, tree: Any) -> None:
        """Keep a tree of host arrays; may return before it is written."""

    def newest(self, like: Callable[[Standing], Any]) -> tuple[Standing, Any] | None:
        """What was kept last and is whole; None without.

        Args:
            like: Names, shapes and dtypes of what was kept there. Raises InputError where nothing
                can have been kept.
        """

    def features(self, shapes: Any) -> tuple[HostFeatures, bool] | None:
        """A place for features on disk, and whether they are there already; None: not wanted."""

    def keep_features(self) -> None:
        """The place has been filled."""


def standing_of(about: Mapping[str, Any]) -> Standing:
    """Read a standing that a file keeps.

    Raises:
        InputError: It is none.
    """
    values: list[Any] = [about.get(name) for name in Standing._fields[:-1]]
    seconds = about.get("seconds")
    if (
        not all(type(value) is int and value >= 0 for value in values)
        or not isinstance(seconds, dict)
        or not all(type(value) in (int, float) for value in seconds.values())
    ):
        raise InputError("what it says of the training is damaged")
    phase, step, steps, batch = values
    return Standing(phase, step, steps, batch, seconds)


def on_host(tree: Any) -> Any:
    """A copy of arrays that later steps may not touch: they reuse the buffers of their input."""
    return jax.tree.map(lambda leaf: np.array(leaf, copy=True), tree)
