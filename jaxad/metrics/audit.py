"""One detector's maps under every convention side by side: why a figure is not a paper's.

Each row is a figure of the same maps, by one way of measuring that somebody publishes. The rows
that jaxad itself publishes have the name of their key in results.json, and equal it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxad.errors import InputError
from jaxad.metrics.audit_image import image_rows, threshold_rows
from jaxad.metrics.audit_pixel import pixel_rows
from jaxad.metrics.audit_table import Line, Photos, Table
from jaxad.metrics.bootstrap import FEWEST, draws, interval
from jaxad.metrics.image import image_metrics
from jaxad.metrics.regions import check_masks

RESAMPLES = 1000
PIXEL_RESAMPLES = 200
"""At most, of pixel figures."""
MOST_RESAMPLES = 10_000
COMPARED = ("image_auroc", "pixel_auroc", "aupro_0.30")
"""Figures of which two detectors' difference is told."""


class Audited(NamedTuple):
    """The rows of one detector, and the resamples of those that results.json has, by key."""

    rows: list[dict[str, Any]]
    resampled: dict[str, np.ndarray]


def audit(
    maps: np.ndarray,
    masks: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    scores: np.ndarray | None = None,
    *,
    halves: np.ndarray | None = None,
    threshold: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Measure score maps by every convention.

    Values are exact, but where thresholds are the convention. Intervals are the middle 95 % of a
    bootstrap over photos, none where a kind has fewer than 5. Those of image figures are exact too;
    those of pixel figures come from at most 200 resamples, counted in some 4,000 bins of scores (or
    at the convention's thresholds, which stay). AUPIMO and RD4AD's AUPRO are means over defective
    photos, and only these are drawn for them.

    Args:
        maps: `(N, H, W)` float32 raw scores, higher is more anomalous.
        masks: `(N, H, W)` bool, True where defective; None: no pixel figures.
        labels: `(N,)` 0 good or 1 defective; None: defective where a mask has a pixel.
        scores: `(N,)` image scores; None: the maximum of each map.
        halves: `masks` binarised above one half after bilinear resizing, where they were resized.
        threshold: Score above which a photo is called anomalous, set on other photos.
        resamples: Of image figures; 0: no intervals.
        seed: Of the resamples.

    Returns:
        Rows of "metric", "convention", "used_by", "value", "low", "high" (None where undefined),
        "key" (its key in results.json, or None) and "why" (what an undefined value lacks, or "").

    Raises:
        InputError: Shapes or types differ from these, or a score is not finite.
    """
    if masks is None and labels is None:
        raise InputError("an audit needs masks or labels: nothing says which photos are defective")
    maps = np.asarray(maps)
    if maps.ndim != 3 or not maps.size or maps.dtype != np.float32:
        raise InputError(f"maps are {maps.dtype} of shape {maps.shape}: give (N, H, W) float32")
    known = np.full(len(maps), masks is not None)
    masks = np.zeros(maps.shape, bool) if masks is None else np.asarray(masks)
    for own in (masks, halves):
        if own is not None:
            check_masks(own)
            if own.shape != maps.shape:
                raise InputError(f"masks have shape {own.shape} and maps {maps.shape}: resize them")
    kinds: Any = masks.any(axis=(1, 2)) if labels is None else np.asarray(labels)
    own_scores: Any = maps.max(axis=(1, 2)) if scores is None else np.asarray(scores)
    if kinds.shape != (len(maps),):
        raise InputError(f"labels have shape {kinds.shape}: give one for each of {len(maps)} maps")
    line = (
        None if threshold is None else Line(own_scores > threshold, "threshold set on other photos")
    )
    photos = Photos(maps, masks, kinds, own_scores, known, halves)
    return audited(photos, line=line, resamples=resamples, seed=seed).rows


def audited(
    photos: Photos,
    *,
    line: Line | None = None,
    why_no_line: str = "no threshold was given",
    resamples: int = RESAMPLES,
    seed: int = 0,
    check: Callable[[], None] = lambda: None,
) -> Audited:
    """Do as `audit`; `check` is called photo by photo and may raise, to end the work."""
    if not 0 <= resamples <= MOST_RESAMPLES:
        raise InputError(f"resamples is {resamples}: it must lie between 0 and {MOST_RESAMPLES}")
    image_metrics(photos.labels, photos.scores)  # refuses what is no label or no score
    photos = dataclasses.replace(photos, labels=np.asarray(photos.labels).astype(int))
    few = min(int(np.sum(photos.labels == kind)) for kind in (0, 1)) < FEWEST
    drawn = draws(photos.labels, 0 if few else resamples, seed=seed)
    weights = np.concatenate([np.ones((1, len(photos.labels)), int), drawn])
    table = Table()
    image_rows(table, photos, weights, check)
    threshold_rows(table, photos, weights, line, why_no_line)
    pixel_rows(table, photos, weights[: 1 + PIXEL_RESAMPLES], check)
    return Audited(table.rows, table.resampled)


def paired(first: Audited, second: Audited) -> list[dict[str, Any]]:
    """The difference, first less second, of figures of the same photos under the same draws.

    Returns:
        Rows of "metric" (a key of results.json), "value", "low", "high" (95 %, paired over photos)
        and "share", that of resamples in which the first is not better; None where undefined.
    """
    one, other = ({row["key"]: row["value"] for row in own.rows} for own in (first, second))
    rows = []
    for key in COMPARED:
        known = one[key] is not None and other[key] is not None
        moved = None
        if key in first.resampled and key in second.resampled:
            moved = first.resampled[key] - second.resampled[key]
        low, high = interval(moved)
        share = None if moved is None else float(np.mean(moved <= 0))
        value = one[key] - other[key] if known else None
        rows.append({"metric": key, "value": value, "low": low, "high": high, "share": share})
    return rows
