"""Pixel metrics from counts at chosen thresholds, as papers' codes take them; exact ones: `pixel`.

Per photo only the counts above each threshold are kept, and summed with a weight a photo. So the
same sums serve a figure (every weight 1) and its bootstrap over photos (how often each was drawn).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from jaxad.metrics.pixel import area
from jaxad.metrics.regions import label_regions

_TOGETHER = 32
"""Photos whose counts are weighted in one product."""


class Pixels(NamedTuple):
    """The pixels of one photo, normal and defective apart, scores ascending."""

    normal: np.ndarray
    """`(P,)` float."""
    defective: np.ndarray
    """`(D,)` float."""
    shares: np.ndarray
    """`(D + 1,)` float64: of the defective pixels from each on, the sum of 1 / area of regions."""
    regions: int


def pixels_of(mask: np.ndarray, scores: np.ndarray, *, dilated: int = 0) -> Pixels:
    """Sort the pixels of one photo.

    Args:
        mask: `(H, W)` bool, True where defective.
        scores: `(H, W)` float32.
        dilated: Side of a square that predictions are dilated by where they overlap regions, but
            not where false positives are counted; 0: not at all.
    """
    labels, areas = label_regions(mask[None])
    # What is above a threshold, dilated, is what has a maximum above it.
    found = (ndimage.maximum_filter(scores, dilated, mode="nearest") if dilated else scores)[mask]
    order = np.argsort(found, kind="stable")
    shares = 1 / areas[labels[0][mask] - 1] if len(areas) else np.zeros(0)
    rest = np.append(np.cumsum(shares[order][::-1])[::-1], 0.0)
    return Pixels(np.sort(scores[~mask]), found[order], rest, len(areas))


class Sums(NamedTuple):
    """Weighted counts above thresholds, from the highest one down; the last column is of all."""

    good: np.ndarray
    """`(C, K + 1)` float64: normal pixels of good photos, by C weightings and K thresholds."""
    bad: np.ndarray
    """`(C, K + 1)`: normal pixels of photos with a defect."""
    defective: np.ndarray
    """`(C, K + 1)`: defective pixels."""
    overlap: np.ndarray
    """`(C, K + 1)`: the sum of regions' shares found."""
    regions: np.ndarray
    """`(C,)`."""

    def fpr(self, *, good: bool = True) -> np.ndarray:
        """False-positive rate `(C, K + 1)`, with or without the good photos."""
        normal = self.good + self.bad if good else self.bad
        return normal / normal[:, -1:]

    def pro(self) -> np.ndarray:
        """Per-region overlap `(C, K + 1)`."""
        return np.minimum(self.overlap / self.regions[:, None], 1)

    def tpr(self) -> np.ndarray:
        """True-positive rate `(C, K + 1)`, pixel by pixel."""
        return self.defective / self.defective[:, -1:]


def count(
    photos: Iterable[Pixels], thresholds: np.ndarray, weights: np.ndarray, good: np.ndarray
) -> Sums:
    """Count what is above thresholds.

    Args:
        photos: N photos.
        thresholds: `(K,)` ascending.
        weights: `(C, N)`.
        good: `(N,)` bool, whether a photo has no defect.
    """
    falling = np.asarray(thresholds, np.float64)[::-1]
    sums = np.zeros((4, len(weights), len(falling) + 1))
    regions = np.zeros(len(weights))
    rows: list[np.ndarray] = []
    done = 0

    def add() -> None:
        nonlocal done
        own = weights[:, done : done + len(rows)].astype(np.float64)
        for total, each in zip(sums, np.stack(rows, axis=1)):
            total += own @ each
        done += len(rows)
        rows.clear()

    for n, photo in enumerate(photos):
        normal = _above(photo.normal, falling)
        found = _above(photo.defective, falling)
        parted = (normal, 0 * normal) if good[n] else (0 * normal, normal)
        rows.append(np.stack([*parted, found, photo.shares[len(photo.defective) - found]]))
        regions += weights[:, n] * photo.regions
        if len(rows) == _TOGETHER:
            add()
    if rows:
        add()
    return Sums(sums[0], sums[1], sums[2], sums[3], regions)


def _above(ascending: np.ndarray, falling: np.ndarray) -> np.ndarray:
    """How many scores are above each threshold, and how many there are."""
    wide = ascending.astype(np.float64)
    above = len(wide) - np.searchsorted(wide, falling, side="right")
    return np.append(above, len(wide))


def linear_thresholds(maps: Iterable[np.ndarray], number: int) -> np.ndarray:
    """`number` equal steps from the lowest score on, the highest left out, `(number,)`."""
    ends = [(float(scores.min()), float(scores.max())) for scores in maps]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    return np.linspace(low, high, number, endpoint=False)


def auroc_of(fpr: np.ndarray, tpr: np.ndarray) -> np.ndarray:
    """Areas under curves of `(C, P)` points that begin behind (0, 0): `(C,)`."""
    return np.trapezoid(_from_zero(tpr), _from_zero(fpr), axis=1)


def ap_of(sums: Sums) -> np.ndarray:
    """Average precision over pixels, in steps from threshold to threshold: `(C,)`."""
    every = sums.defective + sums.good + sums.bad
    precision = np.divide(sums.defective, every, out=np.zeros_like(every), where=every > 0)
    steps = np.diff(_from_zero(sums.tpr()), axis=1)
    return np.sum(steps * precision, axis=1)


def interpolated(fpr: np.ndarray, pro: np.ndarray, limit: float) -> np.ndarray:
    """Areas up to a false-positive rate, interpolated there and divided by it: `(C,)`.

    Exact where thresholds are all scores; adeval does it with 50 bins in ADer's tables.
    """
    pairs = zip(_from_zero(fpr), _from_zero(pro))
    return np.array([area(x, y, limit) for x, y in pairs])


def rescaled(
    fpr: np.ndarray, pro: np.ndarray, limit: float, *, inclusive: bool, from_least: bool
) -> np.ndarray:
    """Areas as reference codes take them: the thresholds below a limit, their FPR stretched to 1.

    Nothing is interpolated at the limit, and nothing stands for what lies between the last
    threshold and it: a far outlier among the scores leaves few thresholds.

    Args:
        fpr: `(C, K)`, rising.
        pro: `(C, K)`.
        limit: Of the false-positive rate.
        inclusive: Whether the limit itself is within (PFM); else below (ADer, SimpleNet, RD4AD).
        from_least: Whether the least FPR becomes 0 (PFM, ADer); else it is only divided by the
            largest (SimpleNet, RD4AD).

    Returns:
        `(C,)`, NaN where fewer than two thresholds or no false positive are within.
    """
    found = np.full(len(fpr), np.nan)
    for n, (x, y) in enumerate(zip(fpr, pro)):
        within = x <= limit if inclusive else x < limit
        x, y = x[within], y[within]
        least = x[0] if len(x) and from_least else 0.0
        if len(x) > 1 and x[-1] > least:
            found[n] = np.trapezoid(y, (x - least) / (x[-1] - least))
    return found


def aupro_of_photo(mask: np.ndarray, scores: np.ndarray, *, number: int, limit: float) -> float:
    """RD4AD's AUPRO of one photo with a defect, by thresholds of its own; NaN: see `rescaled`.

    The figure of a data set is the mean over its defective photos (RD4AD `test.py`); good photos,
    and the order of scores across photos, do not enter.
    """
    one = np.ones((1, 1))
    thresholds = linear_thresholds([scores], number)
    sums = count([pixels_of(mask, scores)], thresholds, one, np.array([False]))
    if not sums.regions[0] or not sums.bad[0, -1]:
        return float("nan")
    points = sums.fpr()[:, :-1], sums.pro()[:, :-1]
    return float(rescaled(*points, limit, inclusive=False, from_least=False)[0])


def _from_zero(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros((len(rows), 1)), rows], axis=1)
