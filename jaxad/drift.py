"""Whether what passes as normal still looks like the normal photos of the calibration.

Two questions of the scores at or below the limit: do they come from one distribution with those of
the calibration that are (two-sample Kolmogorov-Smirnov test), and is the mean of their p-values
what it must be. Both are asked of all photos and of the latest ones. The memory that it takes goes
by the calibration, not by the photos: how many lie between two of its scores is all that is kept.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import numpy as np

LEVEL = 0.001
"""p-value of the test below which scores count as drifted."""
LEAST = 20
"""Photos passed, and of the calibration, below which nothing is said."""
BLOCK = 100
BLOCKS = 10
"""The latest photos are 10 blocks of up to 100."""


class Verdict(NamedTuple):
    """What the passed photos say."""

    passed: int
    """Photos."""
    distance: float
    """Kolmogorov-Smirnov: the largest difference of the two distribution functions."""
    p: float
    """Probability of that distance or a larger one, if nothing has changed."""
    mean_p: float
    """Mean of the photos' p-values."""
    expected: float
    """What it is, if nothing has changed."""
    error: float
    """Standard error of `mean_p`, that of the calibration set included."""

    @property
    def drifted(self) -> bool:
        """Whether normal photos no longer look like the calibration's."""
        return self.passed >= LEAST and self.p < LEVEL

    def text(self) -> str:
        """One line."""
        if math.isnan(self.p):
            return f"drift: too few photos to tell ({self.passed} passed)"
        side = "higher" if self.mean_p < self.expected else "lower"
        told = (
            f"normal photos no longer look like the calibration's (scores are {side})"
            if self.drifted
            else "none seen (of missed defects this says nothing)"
        )
        return (
            f"drift: {told}: {self.passed} passed, Kolmogorov-Smirnov D = {self.distance:.3f}, "
            f"p = {self.p:.2g}, mean p-value {self.mean_p:.3f} ± {self.error:.3f} where "
            f"{self.expected:.3f} is expected"
        )


class _Counts(NamedTuple):
    """How passed scores lie among the n of the calibration."""

    below: np.ndarray
    """`(n + 1,)`: at i, the scores s with i calibration scores < s."""
    upto: np.ndarray
    """`(n + 1,)`: at i, the scores s with i calibration scores <= s."""
    sum_p: float

    def __add__(self, other: _Counts) -> _Counts:  # type: ignore[override]
        return _Counts(self.below + other.below, self.upto + other.upto, self.sum_p + other.sum_p)


class Drift:
    """Takes passed photos one batch after another."""

    def __init__(self, calibration: np.ndarray, limit: float, p_limit: float) -> None:
        """Begin.

        Args:
            calibration: `(n,)` scores of the normal photos.
            limit: Scores above are not compared.
            p_limit: The p-value of a score at the limit: the smallest of what passes.
        """
        self._known = np.sort(calibration[calibration <= limit])
        self._p_limit = p_limit
        self._all = self._counts(np.empty(0), np.empty(0))
        self._blocks = deque([self._all], maxlen=BLOCKS)

    def add(self, scores: np.ndarray, p_values: np.ndarray) -> None:
        """Take scores `(m,)` that are at or below the limit, and their p-values `(m,)`."""
        for start in range(0, len(scores), BLOCK):
            own = self._counts(scores[start : start + BLOCK], p_values[start : start + BLOCK])
            self._all += own
            if self._blocks[-1].below.sum() + own.below.sum() > BLOCK:
                self._blocks.append(own)
            else:
                self._blocks[-1] += own

    def verdict(self) -> Verdict:
        """What all photos say."""
        return self._verdict(self._all)

    def latest(self) -> Verdict:
        """What the latest photos, at most 1,000, say."""
        found = self._blocks[0]
        for own in list(self._blocks)[1:]:
            found += own
        return self._verdict(found)

    def _counts(self, scores: np.ndarray, p_values: np.ndarray) -> _Counts:
        length = len(self._known) + 1
        below, upto = (
            np.bincount(np.searchsorted(self._known, scores, side=side), minlength=length)
            for side in ("left", "right")
        )
        return _Counts(below, upto, float(np.sum(p_values)))

    def _verdict(self, counts: _Counts) -> Verdict:
        from scipy.stats import kstwo

        n, m = len(self._known), int(counts.below.sum())
        expected, span = (1 + self._p_limit) / 2, 1 - self._p_limit
        if min(n, m) < LEAST:
            mean = counts.sum_p / m if m else math.nan
            return Verdict(m, math.nan, math.nan, mean, expected, math.nan)
        # Both functions are steps, and between two calibration scores only one of them rises: the
        # largest difference is at such a score, or right before it.
        at = np.cumsum(counts.below)[:n] / m  # the share of photos <= each calibration score
        before = np.cumsum(counts.upto)[:n] / m  # and of those < each
        known_at = np.searchsorted(self._known, self._known, side="right") / n
        known_before = np.searchsorted(self._known, self._known, side="left") / n
        distance = max(np.abs(at - known_at).max(), np.abs(before - known_before).max())
        p = kstwo.sf(distance, max(1, round(m * n / (m + n))))
        error = span * math.sqrt((1 / m + 1 / n + 1 / (m * n)) / 12)
        return Verdict(m, float(distance), float(p), counts.sum_p / m, expected, error)
