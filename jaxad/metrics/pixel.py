"""Exact pixel metrics: AUROC, average precision and AUPRO over every distinct score, no bins.

All three curves change their height only at scores of defective pixels. So the many normal pixels
are sorted as plain numbers, the few defective ones carry their region along, and two binary
searches give, for each distinct score of a defective pixel, how many normal pixels lie above it and
how many reach it. Everything else is arithmetic on these counts (int64) and weights (float64); a
float32 sum would stop counting at 2**24 pixels.

Which images enter: all test images whose mask is known, the good ones included, with an empty mask.
A defective image without a mask must be left out by the caller: its pixels are neither normal nor
defective.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxad.errors import InputError
from jaxad.metrics.regions import Regions, label_regions


class _Ranking(NamedTuple):
    """What the metrics need of a dataset; `(K,)`, per distinct defective score, descending."""

    defective: np.ndarray
    """int64: defective pixels of exactly this score."""
    overlap: np.ndarray
    """float64: what they add to the per-region overlap, the sum of 1 / area of their regions."""
    above: np.ndarray
    """int64: normal pixels of a higher score."""
    reached: np.ndarray
    """int64: normal pixels of this score or a higher one."""
    normal: int
    """Normal pixels of the dataset."""


def pixel_metrics(
    masks: np.ndarray,
    maps: np.ndarray,
    *,
    limits: Sequence[float] = (0.3,),
    regions: Regions | None = None,
) -> dict[str, float | None]:
    """Pixel AUROC, pixel AP and AUPRO at each limit, with one sort for all.

    Args:
        masks: `(N, H, W)` bool, True where defective; see the module on which images enter.
        maps: `(N, H, W)` float32 raw scores, higher is more anomalous.
        limits: false-positive rates up to which AUPRO integrates, each in (0, 1].
        regions: `label_regions(masks)` where it has been computed before.

    Returns:
        "pixel_auroc", "pixel_ap" and, for each limit, "aupro_" and the limit with two decimals;
        all None where no pixel is defective or none is normal.

    Raises:
        InputError: shapes differ, masks are not boolean, a score is not finite, a limit is not in
            (0, 1].
    """
    for limit in limits:
        _check_limit(limit)
    ranking = _rank(masks, maps, regions)
    metrics: dict[str, float | None] = {"pixel_auroc": None, "pixel_ap": None}
    metrics.update({aupro_name(limit): None for limit in limits})
    if ranking is None:
        return metrics
    metrics["pixel_auroc"] = _auroc(ranking)
    metrics["pixel_ap"] = _average_precision(ranking)
    fpr, pro = _pro_curve(ranking)
    for limit in limits:
        metrics[aupro_name(limit)] = _area(fpr, pro, limit)
    return metrics


def aupro_name(limit: float) -> str:
    """The key under which AUPRO at a limit is stored: 0.3 gives "aupro_0.30"."""
    return f"aupro_{limit:.2f}"


def pixel_auroc(masks: np.ndarray, maps: np.ndarray) -> float | None:
    """Area under the ROC curve over all pixels; ties count one half.

    Arguments, None and errors as in `pixel_metrics`.
    """
    ranking = _rank(masks, maps, None)
    return None if ranking is None else _auroc(ranking)


def pixel_ap(masks: np.ndarray, maps: np.ndarray) -> float | None:
    """Average precision over all pixels: scikit-learn's step sum over distinct thresholds.

    Arguments, None and errors as in `pixel_metrics`.
    """
    ranking = _rank(masks, maps, None)
    return None if ranking is None else _average_precision(ranking)


def aupro(
    masks: np.ndarray, maps: np.ndarray, *, limit: float = 0.3, regions: Regions | None = None
) -> float | None:
    """Area under the per-region overlap curve up to a false-positive rate, divided by that limit.

    The definition of MVTec AD's official evaluation: regions by 8-connectivity, the overlap
    averaged over the regions of all images, the false-positive rate over the normal pixels of all
    images, pixels of equal score taken together, trapezoids with linear interpolation at the limit
    (Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021).

    Arguments, None and errors as in `pixel_metrics`.
    """
    _check_limit(limit)
    ranking = _rank(masks, maps, regions)
    return None if ranking is None else _area(*_pro_curve(ranking), limit)


def pro_curve(
    masks: np.ndarray, maps: np.ndarray, *, regions: Regions | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The per-region overlap over the false-positive rate, from (0, 0) to (1, 1).

    Points inside its level stretches are left out; straight lines between the points give the
    whole curve.

    Returns:
        `(fpr, pro)`, each `(P,)` float64, not decreasing.

    Raises:
        InputError: as `pixel_metrics`, and where no pixel is defective or none is normal.
    """
    ranking = _rank(masks, maps, regions)
    if ranking is None:
        raise InputError("a PRO curve needs both normal and defective pixels")
    return _pro_curve(ranking)


def _check_limit(limit: float) -> None:
    if not 0 < limit <= 1:
        raise InputError(f"the AUPRO limit is {limit}: it must lie in (0, 1]")


def _rank(masks: np.ndarray, maps: np.ndarray, regions: Regions | None) -> _Ranking | None:
    """Sort once; None where all pixels are of one kind."""
    if masks.shape != maps.shape:
        raise InputError(
            f"masks have shape {masks.shape} and score maps {maps.shape}: resize the masks "
            "(NEAREST) to the size of the maps"
        )
    if regions is None or masks.dtype != bool:  # label_regions refuses masks that are not boolean
        regions = label_regions(masks)
    if regions.labels.shape != masks.shape:
        raise InputError(
            f"regions were labelled for shape {regions.labels.shape}, masks have {masks.shape}"
        )
    finite = np.isfinite(maps)
    if not finite.all():
        image = int(np.argmin(finite.all(axis=(1, 2))))
        raise InputError(
            f"score map {image} holds NaN or infinity: scores must be finite "
            "(did training diverge?)"
        )

    scores = maps[masks]
    numbers = regions.labels[masks]
    if regions.areas.sum() != len(scores) or not numbers.all():
        raise InputError("regions were labelled for other masks than these: label them again")
    normal = maps[~masks]
    if not len(scores) or not len(normal):
        return None
    normal.sort()
    order = np.argsort(scores)
    scores = scores[order]
    start = np.flatnonzero(np.append(True, scores[1:] != scores[:-1]))
    distinct = scores[start]
    share = 1 / regions.areas[numbers[order] - 1]
    return _Ranking(
        defective=np.diff(np.append(start, len(scores)))[::-1],
        overlap=np.add.reduceat(share, start)[::-1],
        above=len(normal) - np.searchsorted(normal, distinct, side="right")[::-1],
        reached=len(normal) - np.searchsorted(normal, distinct, side="left")[::-1],
        normal=len(normal),
    )


def _auroc(ranking: _Ranking) -> float:
    # Twice the number of (normal, defective) pairs in the wrong order, a tie counting one half: an
    # exact integer, as int64 holds it for up to four thousand million pixels.
    wrong = int(np.sum(ranking.defective * (ranking.above + ranking.reached)))
    pairs = 2 * ranking.normal * int(ranking.defective.sum())
    return (pairs - wrong) / pairs


def _average_precision(ranking: _Ranking) -> float:
    found = np.cumsum(ranking.defective)
    precision = found / (found + ranking.reached)
    return float(np.sum(ranking.defective * precision) / found[-1])


def _pro_curve(ranking: _Ranking) -> tuple[np.ndarray, np.ndarray]:
    # At each distinct defective score the curve has moved right, level, past the normal pixels
    # above it, and then rises in one straight line over the group of equal scores.
    height = np.cumsum(ranking.overlap)
    height = np.minimum(height / height[-1], 1)
    fpr = np.stack([ranking.above, ranking.reached], axis=1).reshape(-1) / ranking.normal
    pro = np.stack([np.append(0, height[:-1]), height], axis=1).reshape(-1)
    fpr, pro = np.concatenate([[0.0], fpr, [1.0]]), np.concatenate([[0.0], pro, [1.0]])
    moved = np.append(True, (np.diff(fpr) > 0) | (np.diff(pro) > 0))
    return fpr[moved], pro[moved]


def _area(fpr: np.ndarray, pro: np.ndarray, limit: float) -> float:
    inside = int(np.searchsorted(fpr, limit, side="right"))
    x, y = fpr[:inside], pro[:inside]
    if x[-1] < limit:
        x, y = np.append(x, limit), np.append(y, np.interp(limit, fpr, pro))
    return float(np.trapezoid(y, x) / limit)
