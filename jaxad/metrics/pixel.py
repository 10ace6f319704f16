"""Exact pixel metrics: AUROC, average precision and AUPRO over every distinct score, no bins.

Everything is arithmetic on the counts (int64) and weights (float64) of a `Ranking`; how that comes
about, from one array or from a stream of batches, stands in `jaxad.metrics.stream`.

Which images enter: all test images whose mask is known, the good ones included, with an empty mask.
A defective image without a mask must be left out by the caller: its pixels are neither normal nor
defective.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxad.errors import InputError
from jaxad.metrics.regions import Regions
from jaxad.metrics.stream import PixelStream, Ranking, rank_pixels


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
    stream = PixelStream(masks.size, maps.dtype)
    stream.add(masks, maps, regions=regions)
    return stream_metrics(stream, limits=limits)


def stream_metrics(
    stream: PixelStream, *, limits: Sequence[float] = (0.3,)
) -> dict[str, float | None]:
    """`pixel_metrics` of all images that the stream has taken, bit for bit; the stream ends here.

    Raises:
        InputError: a limit is not in (0, 1].
    """
    return stream_curve(stream, limits=limits)[0]


def stream_curve(
    stream: PixelStream, *, limits: Sequence[float] = (0.3,), points: int = 200
) -> tuple[dict[str, float | None], np.ndarray | None]:
    """`stream_metrics`, and points of the PRO curve to draw; the stream ends here.

    Returns:
        The metrics, and `(2, P)` float64 of at most `points` + 2 points: false-positive rate and
        overlap, from 0 to the largest limit, spaced evenly along the curve; None where the metrics
        are.

    Raises:
        InputError: a limit is not in (0, 1].
    """
    for limit in limits:
        _check_limit(limit)
    ranking = stream.rank()
    metrics: dict[str, float | None] = {"pixel_auroc": None, "pixel_ap": None}
    metrics.update({aupro_name(limit): None for limit in limits})
    if ranking is None:
        return metrics, None
    metrics["pixel_auroc"] = _auroc(ranking)
    metrics["pixel_ap"] = _average_precision(ranking)
    fpr, pro = _pro_curve(ranking)
    for limit in limits:
        metrics[aupro_name(limit)] = area(fpr, pro, limit)
    return metrics, _thinned(fpr, pro, max(limits, default=1.0), points)


def aupro_name(limit: float) -> str:
    """The key under which AUPRO at a limit is stored: 0.3 gives "aupro_0.30"."""
    return f"aupro_{limit:.2f}"


def pixel_auroc(masks: np.ndarray, maps: np.ndarray) -> float | None:
    """Area under the ROC curve over all pixels; ties count one half.

    Arguments, None and errors as in `pixel_metrics`.
    """
    ranking = rank_pixels(masks, maps)
    return None if ranking is None else _auroc(ranking)


def pixel_ap(masks: np.ndarray, maps: np.ndarray) -> float | None:
    """Average precision over all pixels: scikit-learn's step sum over distinct thresholds.

    Arguments, None and errors as in `pixel_metrics`.
    """
    ranking = rank_pixels(masks, maps)
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
    ranking = rank_pixels(masks, maps, regions=regions)
    return None if ranking is None else area(*_pro_curve(ranking), limit)


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
    ranking = rank_pixels(masks, maps, regions=regions)
    if ranking is None:
        raise InputError("a PRO curve needs both normal and defective pixels")
    return _pro_curve(ranking)


def _check_limit(limit: float) -> None:
    if not 0 < limit <= 1:
        raise InputError(f"the AUPRO limit is {limit}: it must lie in (0, 1]")


def _auroc(ranking: Ranking) -> float:
    # Twice the number of (normal, defective) pairs in the wrong order, a tie counting one half: an
    # exact integer, as int64 holds it for up to four thousand million pixels.
    wrong = int(np.sum(ranking.defective * (ranking.above + ranking.reached)))
    pairs = 2 * ranking.normal * int(ranking.defective.sum())
    return (pairs - wrong) / pairs


def _average_precision(ranking: Ranking) -> float:
    found = np.cumsum(ranking.defective)
    precision = found / (found + ranking.reached)
    return float(np.sum(ranking.defective * precision) / found[-1])


def _pro_curve(ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
    # At each distinct defective score the curve has moved right, level, past the normal pixels
    # above it, and then rises in one straight line over the group of equal scores.
    height = np.cumsum(ranking.overlap)
    height = np.minimum(height / height[-1], 1)
    fpr = np.stack([ranking.above, ranking.reached], axis=1).reshape(-1) / ranking.normal
    pro = np.stack([np.append(0, height[:-1]), height], axis=1).reshape(-1)
    fpr, pro = np.concatenate([[0.0], fpr, [1.0]]), np.concatenate([[0.0], pro, [1.0]])
    moved = np.append(True, (np.diff(fpr) > 0) | (np.diff(pro) > 0))
    return fpr[moved], pro[moved]


def _thinned(fpr: np.ndarray, pro: np.ndarray, limit: float, points: int) -> np.ndarray:
    x, y = _until(fpr, pro, limit)
    # Both grow, so their sum is a measure of the way along the curve.
    way = x / limit + y
    chosen = np.unique(np.searchsorted(way, np.linspace(0, way[-1], points)))
    chosen = np.union1d(chosen, [0, len(x) - 1])
    return np.stack([x[chosen], y[chosen]])


def area(fpr: np.ndarray, pro: np.ndarray, limit: float) -> float:
    """The area under a rising curve from (0, 0), up to a limit and divided by it."""
    x, y = _until(fpr, pro, limit)
    return float(np.trapezoid(y, x) / limit)


def _until(fpr: np.ndarray, pro: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """The curve up to a rate, its last point between two others."""
    inside = int(np.searchsorted(fpr, limit, side="right"))
    x, y = fpr[:inside], pro[:inside]
    if x[-1] < limit:
        x, y = np.append(x, limit), np.append(y, np.interp(limit, fpr, pro))
    return x, y
