"""The metric blocks of results.json: one a category, and their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from jaxad.metrics.image import image_metrics
from jaxad.metrics.pixel import aupro_name, pixel_metrics
from jaxad.metrics.regions import Regions

COUNTS = ("n_train", "n_test")
"""Keys of a category's block that are counts and not metrics."""

CategoryMetrics = dict[str, float | int | None]
"""Metric or count name -> value, in the key order of results.json; None where undefined."""


def category_metrics(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    masks: np.ndarray | None,
    maps: np.ndarray | None,
    *,
    n_train: int,
    limits: Sequence[float] = (0.3,),
    regions: Regions | None = None,
) -> CategoryMetrics:
    """All metrics of one category, in the key order of results.json.

    Args:
        labels: `(N,)` 0 (good) or 1 (defective), of every test image.
        scores: `(N,)` image scores.
        masks: `(M, H, W)` bool of the test images whose mask is known (a good image's is empty;
            a defective image without a mask is left out by the caller, so M may be below N), or
            None where the dataset has no masks.
        maps: `(M, H, W)` float32 score maps of the same images as `masks`, or None.
        n_train: training images of the category.
        limits: see `pixel_metrics`.
        regions: see `pixel_metrics`.

    Returns:
        Image metrics, pixel metrics, "n_train", "n_test"; None where a metric is undefined.

    Raises:
        InputError: as `image_metrics` and `pixel_metrics`.
    """
    pixel: dict[str, float | None]
    if masks is None or maps is None:
        pixel = dict.fromkeys(("pixel_auroc", "pixel_ap", *map(aupro_name, limits)))
    else:
        pixel = pixel_metrics(masks, maps, limits=limits, regions=regions)
    return {
        **image_metrics(labels, scores),
        **pixel,
        "n_train": int(n_train),
        "n_test": len(np.asarray(labels)),
    }


def mean_metrics(
    categories: Mapping[str, Mapping[str, float | int | None]],
) -> dict[str, float | None]:
    """The mean of each metric over the categories that have it, as the papers average classes.

    A category where a metric is undefined (None) does not enter that metric's mean; where no
    category has it, the mean is None. Counts are not averaged.
    """
    names = dict.fromkeys(
        name for metrics in categories.values() for name in metrics if name not in COUNTS
    )
    mean: dict[str, float | None] = {}
    for name in names:
        values = [metrics.get(name) for metrics in categories.values()]
        known = [float(value) for value in values if value is not None]
        mean[name] = sum(known) / len(known) if known else None
    return mean
