"""Which line decides for a photo, from photos of normal parts: of its category, or its subclass.

Each line is a threshold with a promised false-alarm rate (`jaxad.conformal`). A detector may say of
each photo which of several subclasses it takes it for. What it says goes by the photo alone, so
photos that it takes for one subclass are exchangeable among themselves, and a line drawn by those
alone keeps the promise for them (Mondrian conformal prediction, Vovk et al., 2005, section 4.5).

Nothing here knows defects, and no promise is made about them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxad.conformal import p_values, photos_needed, rank, threshold
from jaxad.errors import InputError
from jaxad.normal import Normal, normal_from_json


class Limits(NamedTuple):
    """Where the line is drawn for one photo."""

    score: float
    """A photo whose score is above is called anomalous."""
    pixel: float
    """Pixels above are called anomalous; a normal photo has any with probability ≤ α."""
    normal: tuple[Normal, ...]
    """What p-values are taken against, the largest of all."""

    @property
    def p_limit(self) -> float:
        """The p-value of a score at the limit: the smallest of what passes."""
        return float(self.p_values(np.asarray([self.score]))[0])

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """P-values `(m,)` of image scores `(m,)`; see `p_values`."""
        return np.max([p_values(own.scores, scores) for own in self.normal], axis=0)


class Lines(NamedTuple):
    """Which limits count for which photo of a category."""

    limits: Limits
    """Those of the category."""
    routed: Mapping[str, Limits] = MappingProxyType({})
    """Of photos that the detector takes for a subclass; for all others, `limits`."""

    def of(self, subclass: str) -> Limits:
        """The limits of photos that are taken for a subclass."""
        return self.routed.get(subclass, self.limits)

    def scores(self, taken: Sequence[str]) -> np.ndarray:
        """The score `(m,)` float64 above which each photo is called anomalous.

        Args:
            taken: What the m photos are taken for.
        """
        return np.asarray([self.of(name).score for name in taken], np.float64)

    def p_values(self, scores: np.ndarray, taken: Sequence[str]) -> np.ndarray:
        """P-values `(m,)` of image scores `(m,)`, each among those of what it is taken for."""
        found, names = np.empty(len(scores)), np.asarray(taken, object)
        for name in set(taken):
            own = np.flatnonzero(names == name)
            found[own] = self.of(name).p_values(scores[own])
        return found

    def passed(self) -> tuple[np.ndarray, float, float]:
        """What photos that pass are compared with, as `drift.Drift` takes it; of one category."""
        (normal,) = self.limits.normal
        if not self.routed:
            return normal.scores, self.limits.score, self.limits.p_limit
        # What passes does so by the limits of its subclass, there as here.
        passed = np.flatnonzero(normal.scores <= self.scores(normal.routed))
        least = float(np.mean([self.of(normal.routed[i]).p_limit for i in passed]))
        return normal.scores[passed], math.inf, least


def calibrate(
    scores: np.ndarray,
    alpha: float,
    *,
    peaks: np.ndarray | None = None,
    confidence: float | None = None,
) -> Limits:
    """Draw the line between normal and anomalous by photos of normal parts.

    Args:
        scores: `(n,)`, image scores of normal photos that training has not seen.
        alpha: P(the next normal photo scores above the line) is at most this; see `rank`.
        peaks: `(n,)`, the largest value of each map, for the line between pixels; None: `scores`,
            for methods whose image score is the maximum of the map.
        confidence: 1 - δ, that the promise holds for this calibration; None: on average.

    Raises:
        InputError: Too few photos for the rate, rates out of range, or scores that are not finite.
    """
    own = np.asarray(scores)
    tops = own if peaks is None else np.asarray(peaks)
    if own.ndim != 1 or tops.shape != own.shape:
        raise InputError(
            f"scores have shape {own.shape} and peaks {tops.shape}: give one of each a photo"
        )
    if not (np.isfinite(own).all() and np.isfinite(tops).all()):
        raise InputError("scores must be finite (did training diverge?)")
    score, pixel = (threshold(each, alpha, confidence=confidence) for each in (own, tops))
    return Limits(score, pixel, (Normal(own, tops, ("",) * len(own)),))


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What decides for one detector."""

    categories: Mapping[str, Normal]
    false_alarm: float
    """α; see `rank`."""
    confidence: float | None = None
    """1 - δ; see `rank`."""
    left_out: Mapping[str, Normal] = dataclasses.field(default_factory=dict)
    """By category, photos that were found to be no normal parts: nothing is drawn by them."""

    def limits(self, category: str | None = None, subclass: str | None = None) -> Limits:
        """The limits for photos of a category, and within it of a subclass.

        Where no category is named and there are several, the most cautious: the promise then holds
        for each of them.

        Raises:
            InputError: No such category or subclass; too few photos for the rate.
        """
        if category is not None and category not in self.categories:
            raise InputError(
                f"nothing is calibrated for {category!r}, but for {_listed(self.categories)}: name "
                "one of them, or run jaxad calibrate"
            )
        chosen = dict(self._chosen(category, subclass))
        if not chosen:
            raise InputError(
                f"no calibration photo is of subclass {subclass!r}: run jaxad calibrate with some"
            )
        for name, own in chosen.items():
            try:
                rank(len(own.scores), self.false_alarm, confidence=self.confidence)
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
        return self._drawn(tuple(chosen.values()))

    def lines(self, category: str, *, routed: bool) -> Lines:
        """Which limits count for which photo of a category.

        `routed` says whether it is known what photos are taken for: else one limit counts for all.

        Raises:
            InputError: As `limits`.
        """
        limits = self.limits(category)
        return Lines(limits, self.routed_limits(category) if routed else {})

    def routed_limits(self, category: str | None = None) -> dict[str, Limits]:
        """The limits for photos that the detector takes for a subclass, by its name.

        Those of subclasses with photos enough for the rate; for all others count those of the
        category. Where no category is named and there are several, the most cautious, as `limits`.

        Raises:
            InputError: As `limits`.
        """
        every = self.limits(category).normal
        found = {}
        for name in sorted({name for own in every for name in own.routed if name}):
            chosen = tuple(
                part if self.is_enough(part := own.taken_for(name)) else own for own in every
            )
            if any(part is not own for part, own in zip(chosen, every)):
                found[name] = self._drawn(chosen)
        return found

    def is_enough(self, normal: Normal) -> bool:
        """Whether these photos do for the rate."""
        needed = photos_needed(self.false_alarm, confidence=self.confidence)
        return len(normal.scores) >= needed

    def _drawn(self, chosen: tuple[Normal, ...]) -> Limits:
        """The most cautious limits of several sets of photos."""
        score, pixel = (
            max(
                threshold(getattr(own, what), self.false_alarm, confidence=self.confidence)
                for own in chosen
            )
            for what in ("scores", "peaks")
        )
        return Limits(score, pixel, chosen)

    def _chosen(self, category: str | None, subclass: str | None) -> Iterator[tuple[str, Normal]]:
        for name, normal in self.categories.items():
            if category in (None, name):
                if subclass is None:
                    yield name, normal
                elif subclass in normal.subclasses:
                    yield f"{name}, {subclass}", normal.of(subclass)

    def to_json(self, *, photos: bool = True) -> dict[str, Any]:
        """As plain dicts and lists; every float32 comes back as it was.

        Args:
            photos: Whether their paths are told.
        """
        left_out = {name: own.to_json() for name, own in self.left_out.items() if photos}
        return {
            "false_alarm": self.false_alarm,
            "confidence": self.confidence,
            "categories": {n: own.to_json(photos=photos) for n, own in self.categories.items()},
            **({"left_out": left_out} if left_out else {}),
        }


def from_json(found: Any) -> Calibration:
    """Read what `Calibration.to_json` gave, which may be a stranger's.

    Raises:
        InputError: It is damaged.
    """
    try:
        rates = [found["false_alarm"], found["confidence"]]
        photos_needed(rates[0], confidence=rates[1])
        categories = _by_category(found["categories"])
        left_out = _by_category(found.get("left_out", {}))
        if not categories:
            raise ValueError
    except (InputError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise InputError("the calibration is damaged: run jaxad calibrate again") from None
    return Calibration(categories, rates[0], rates[1], left_out)


def _by_category(found: Any) -> dict[str, Normal]:
    return {str(name): normal_from_json(own) for name, own in found.items()}


def _listed(names: Mapping[str, Any], limit: int = 5) -> str:
    first = list(names)[:limit]
    return ", ".join(map(repr, first)) + (", ..." if len(names) > limit else "")
