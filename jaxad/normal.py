"""What a detector gave normal photos that it has not learnt: what calibrations are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Normal(NamedTuple):
    """What a detector gave normal photos of one category that training has not seen."""

    scores: np.ndarray
    """`(n,)` float32, image scores."""
    peaks: np.ndarray
    """`(n,)` float32, the largest value of each map."""
    subclasses: tuple[str, ...]
    """Of each photo; "" where unknown."""
    routed: tuple[str, ...] = ()
    """The subclass that the detector took each photo for, which may be another; "" where unknown.
    Empty where it takes photos for none."""
    photos: tuple[str, ...] = ()
    """Path of each, for people; "" where unknown, empty where none is known."""

    def of(self, subclass: str) -> Normal:
        """Those of one subclass."""
        return self.rows([i for i, name in enumerate(self.subclasses) if name == subclass])

    def taken_for(self, subclass: str) -> Normal:
        """Those that the detector took for one subclass."""
        return self.rows([i for i, name in enumerate(self.routed) if name == subclass])

    def rows(self, which: Sequence[int] | np.ndarray) -> Normal:
        """Some of the photos."""
        index = np.asarray(which, np.intp)
        names = (
            tuple(own[i] for i in index) if own else ()
            for own in (self.subclasses, self.routed, self.photos)
        )
        return Normal(self.scores[index], self.peaks[index], *names)

    def joined(self, other: Normal) -> Normal:
        """These photos, and others after them."""

        def both(a: tuple[str, ...], b: tuple[str, ...]) -> tuple[str, ...]:
            if not a and not b:
                return ()
            return (a or ("",) * len(self.scores)) + (b or ("",) * len(other.scores))

        return Normal(
            np.concatenate([self.scores, other.scores]),
            np.concatenate([self.peaks, other.peaks]),
            self.subclasses + other.subclasses,
            both(self.routed, other.routed),
            both(self.photos, other.photos),
        )

    def to_json(self, *, photos: bool = True) -> dict[str, list[Any]]:
        """As plain lists; `photos` says whether their paths are told."""
        return {
            "scores": self.scores.tolist(),
            "peaks": self.peaks.tolist(),
            "subclasses": list(self.subclasses),
            **({"routed": list(self.routed)} if self.routed else {}),
            **({"photos": list(self.photos)} if self.photos and photos else {}),
        }


def normal_from_json(found: Any) -> Normal:
    """Read what `Normal.to_json` gave, which may be a stranger's.

    Raises:
        ValueError, KeyError, TypeError or AttributeError: It is damaged.
    """
    scores, peaks = (np.asarray(found[key], np.float64) for key in ("scores", "peaks"))
    subclasses = tuple(found["subclasses"])
    routed, photos = (tuple(found.get(key, ())) for key in ("routed", "photos"))
    alike = scores.shape == peaks.shape == (len(subclasses),)
    alike = alike and all(len(own) in (0, len(subclasses)) for own in (routed, photos))
    names = all(isinstance(name, str) for name in subclasses + routed + photos)
    largest = np.finfo(np.float32).max
    if not alike or not names or not (np.abs([scores, peaks]) <= largest).all():
        raise ValueError
    both = scores.astype(np.float32), peaks.astype(np.float32)
    return Normal(*both, subclasses, routed, photos)
