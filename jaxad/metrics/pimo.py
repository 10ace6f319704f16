"""AUPIMO: how much of each defect is found where good photos raise almost no false alarm.

Bertoldo et al., "AUPIMO: Redefining Visual Anomaly Detection Benchmarks with High Speed and Low
Tolerance" (arXiv 2401.01984). Their code takes 300,000 thresholds; here every score of a normal
pixel in the range is one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

BOUNDS = (1e-5, 1e-4)
"""Of the false-positive rate."""
FEWEST = 30
"""Thresholds within the bounds, below which the paper's code refuses."""


def aupimo(
    good: np.ndarray, defects: Iterable[np.ndarray], *, bounds: tuple[float, float] = BOUNDS
) -> np.ndarray | None:
    """AUPIMO of every photo with a defect; the figure of a data set is their mean.

    The false-positive rate of a threshold is over the pixels of good photos alone, averaged over
    these photos (which are of one size, so that it is a rate of all their pixels). Of one photo,
    its true-positive rate is integrated over the logarithm of that rate, in trapezoids between the
    distinct scores, and divided by the range. At a bound between two scores it is interpolated.

    Args:
        good: `(P,)` float32, every pixel of good photos, in any order.
        defects: The scores of the defective pixels of each photo.
        bounds: Of the false-positive rate, both above 0.

    Returns:
        `(photos,)` in [0, 1], NaN of a photo without a defective pixel; None where good photos have
        so few pixels that not `FEWEST` distinct scores lie within the bounds.
    """
    low, high = bounds
    # The highest scores alone decide, up to one beyond the upper bound.
    needed = min(int(np.ceil(high * len(good))) + 1, len(good))
    if needed < FEWEST:
        return None
    top = np.sort(np.partition(good, len(good) - needed)[-needed:])[::-1]
    # Of the lowest of them more may lie below: then `needed` cuts a group of ties, and it counts.
    rates = _last_of_ties(top, good) / len(good)
    thresholds, first = np.unique(-top, return_index=True)
    thresholds, rates = -thresholds, rates[first]
    if np.sum((rates >= low) & (rates <= high)) < FEWEST or rates[0] > low or rates[-1] < high:
        return None
    x = np.log(rates)
    inside = (rates > low) & (rates < high)
    grid = np.concatenate([[np.log(low)], x[inside], [np.log(high)]])
    found = []
    for scores in defects:
        ascending = np.sort(scores)
        reached = len(ascending) - np.searchsorted(ascending, thresholds, side="left")
        if not len(ascending):
            found.append(np.nan)
            continue
        heights = np.interp(grid, x, reached / len(ascending))
        found.append(float(np.trapezoid(heights, grid) / np.log(high / low)))
    return np.array(found)


def _last_of_ties(falling: np.ndarray, every: np.ndarray) -> np.ndarray:
    """How many of all scores reach each of the highest."""
    ascending = falling[::-1]
    reached = len(falling) - np.searchsorted(ascending, falling, side="left")
    lowest = falling == falling[-1]
    reached[lowest] = int(np.sum(every >= falling[-1]))
    return reached
