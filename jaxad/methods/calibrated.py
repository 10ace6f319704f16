"""Features of any method, calibrated to what its subclasses have (Eq. 5 of Adapted-MoE).

`adaption` moves one array; here are all features that a method reads, as maps or as drawn
positions, and the passes over training images that tell what each subclass has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.core import Array, Features, Images, Variables, pick
from jaxad.methods.adaption import Adaption, adapt

LOCATION, SCALE = ".location", ".scale"
"""Behind the name of a feature: what Eq. 5 reads of a whole image, where positions are drawn."""


def subclass_of(batch: Mapping[str, Any]) -> int:
    """The subclass of a batch of one image."""
    return int(np.asarray(batch["subclass"])[0])


@dataclasses.dataclass(frozen=True)
class Of:
    """The images of one subclass, or of all (`subclass` None), changed by `change`."""

    images: Images
    subclass: int | None
    change: Callable[[Features, Array], Features]
    """`change(features, subclasses (1,) int32)`."""

    def __len__(self) -> int:
        return sum(1 for _ in self._own())

    def __iter__(self) -> Iterator[tuple[Features, Mapping[str, Any]]]:
        for features, batch in self._own():
            yield self.change(features, jnp.asarray(batch["subclass"], jnp.int32)), batch

    def _own(self) -> Iterator[tuple[Features, Mapping[str, Any]]]:
        for features, batch in self.images:
            if self.subclass is None or subclass_of(batch) == self.subclass:
                yield features, batch


def unknown(features: Features, names: Sequence[str], count: int, how: Adaption) -> Variables:
    """What features are calibrated to, before it is known: feature -> location and scale."""
    found = {}
    for name, x in zip(names, pick(features, names)):
        zeros = jnp.zeros((count, how.width(x.shape[-1])), x.dtype)
        found[_key(name)] = {"location": zeros, "scale": zeros + 1}
    return found


def _key(name: str) -> str:
    return name.replace("/", ".")


def calibrated(
    features: Features, learnt: Variables, y: Array, *, names: Sequence[str], how: Adaption
) -> Features:
    """Move features the way that `how` says to those of subclass `y` `(B,)` int32.

    Args:
        features: Maps, or drawn positions with their images' statistics beside them.
        learnt: What each subclass's features have, as `unknown` has it.
        y: Of each element.
        names: The features that are moved, and returned.
        how: By which statistics, how far.
    """
    found = {}
    for name, x in zip(names, pick(features, names)):
        drawn = x.ndim != 4
        own = pick(features, [name + LOCATION, name + SCALE]) if drawn else how.of(x)
        to = (learnt[_key(name)][what][y] for what in ("location", "scale"))
        place, wide = (v.reshape(x.shape[0], *[1] * (x.ndim - 2), v.shape[-1]) for v in to)
        found[name] = adapt(x, (own[0], own[1]), (place, wide), share=how.share)
    return found


def observer(names: Sequence[str], how: Adaption) -> Callable[[Variables, Images], Variables]:
    """Make what takes the subclasses' locations and scales: means over each one's images.

    Returns:
        `observe(learnt, images)`: `learnt` as `unknown` has it, known. What has no images keeps
        what it has.
    """

    @jax.jit
    def one(features: Features) -> Variables:
        found = {}
        for name, x in zip(names, pick(features, names)):
            both = (jnp.mean(value, axis=(1, 2))[0] for value in how.of(x))
            found[_key(name)] = dict(zip(("location", "scale"), both))
        return found

    def observe(learnt: Variables, images: Images) -> Variables:
        count = jax.tree.leaves(learnt)[0].shape[0]
        members = np.zeros(count, int)
        total = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float64), learnt)
        for features, batch in images:
            n = subclass_of(batch)
            members[n] += 1
            for whole, value in zip(jax.tree.leaves(total), jax.tree.leaves(one(features))):
                whole[n] += np.asarray(value)
        each, there = np.maximum(members, 1)[:, None], (members > 0)[:, None]

        def mean(leaf: Array, sum_: Any) -> Array:
            return jnp.asarray(np.where(there, sum_ / each, leaf), leaf.dtype)

        return jax.tree.map(mean, learnt, total)

    return observe
