"""Split conformal prediction: thresholds and p-values from scores of normal photos alone.

n normal photos that training never saw are scored; if the next normal photo comes from where they
came from (the n + 1 scores are exchangeable), its score is above the k-th smallest of theirs with
probability at most 1 - k / (n + 1), whatever the detector and the distribution (Vovk, Gammerman and
Shafer, 2005; Angelopoulos and Bates, 2023, Theorem 1). That is a promise on average over
calibration sets. With a `confidence`, the rate of the threshold at hand is promised: its share of
good photos passed is Beta(k, n + 1 - k) distributed (Vovk, 2012; ties only make it larger), so k is
chosen by that.

Nothing here knows defects, and no promise is made about them.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from jaxad.errors import InputError

_ROUNDING = 1e-9
"""What products of decimal rates are off by, before they are rounded up."""


def rank(count: int, false_alarm: float, *, confidence: float | None = None) -> int:
    """Which of `count` calibration scores, from the smallest, 1, is the threshold.

    Args:
        count: n.
        false_alarm: α, in (0, 1): P(a normal photo scores above the threshold) is at most this.
        confidence: 1 - δ, in (0, 1): the promise holds for so large a share of all calibration
            sets; None: on average over them.

    Returns:
        ⌈(n + 1)(1 - α)⌉; with a confidence the least k with P(Beta(k, n + 1 - k) < 1 - α) ≤ δ.

    Raises:
        InputError: A rate is not in (0, 1); n is too few for it.
    """
    needed = photos_needed(false_alarm, confidence=confidence)
    if count < needed:
        with_confidence = "" if confidence is None else f" with confidence {confidence:g}"
        # With a confidence, too, the least rate is what the largest score gives.
        least = (
            1 / (count + 1) if confidence is None else 1 - (1 - confidence) ** (1 / (count or 1))
        )
        mend = f", or {math.ceil(least * 1000) / 1000:g} as the rate" if count else ""
        raise InputError(
            f"{count} calibration photos are too few for a false-alarm rate of {false_alarm:g}"
            f"{with_confidence}: take {needed} or more{mend}"
        )
    if confidence is None:
        return math.ceil((count + 1) * (1 - false_alarm) - _ROUNDING)
    k = np.arange(1, count + 1)
    misses = special.betainc(k, count + 1 - k, 1 - false_alarm)
    return 1 + int(np.argmax(misses <= 1 - confidence + _ROUNDING))


def photos_needed(false_alarm: float, *, confidence: float | None = None) -> int:
    """The least number of calibration photos for a false-alarm rate; see `rank`.

    Raises:
        InputError: A rate is not in (0, 1).
    """
    for name, value in (("false-alarm rate", false_alarm), ("confidence", confidence)):
        if value is not None and not 0 < value < 1:
            raise InputError(f"the {name} is {value:g}: it must lie between 0 and 1, like 0.05")
    if confidence is None:
        return math.ceil(1 / false_alarm - _ROUNDING) - 1 or 1
    return math.ceil(math.log(1 - confidence) / math.log1p(-false_alarm) - _ROUNDING)


def threshold(scores: np.ndarray, false_alarm: float, *, confidence: float | None = None) -> float:
    """The score above which a photo is called anomalous; see `rank`.

    Args:
        scores: `(n,)`, of normal photos that training has not seen.
        false_alarm: α.
        confidence: 1 - δ.

    Raises:
        InputError: See `rank`.
    """
    k = rank(len(scores), false_alarm, confidence=confidence)
    return float(np.partition(scores, k - 1)[k - 1])


def p_values(calibration: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How usual scores are: P(p ≤ u) ≤ u for a normal photo, for every u.

    Args:
        calibration: `(n,)`, of normal photos.
        scores: `(m,)`.

    Returns:
        `(m,)` float64, (1 + the number of calibration scores ≥ s) / (n + 1).
    """
    below = np.searchsorted(np.sort(calibration), scores, side="left")
    return (1.0 + len(calibration) - below) / (len(calibration) + 1)
