"""The metric blocks of results.json: one a category, and their mean."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from jaxad.metrics.image import image_metrics

COUNTS = ("n_train", "n_calibration", "n_test")
"""Keys of a category's block that are counts and not metrics."""

CategoryMetrics = dict[str, float | int | None]
"""Metric or count name -> value, in the key order of results.json; None where undefined."""


def category_metrics(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    pixel: Mapping[str, float | None],
    *,
    n_train: int,
    n_calibration: int = 0,
) -> CategoryMetrics:
    """All metrics of one category, in the key order of results.json.

    Args:
        labels: `(N,)` 0 (good) or 1 (defective), of every test image.
        scores: `(N,)` image scores.
        pixel: `pixel_metrics` or `stream_metrics` of the test images whose mask is known (a good
            image's is empty; a defective image without a mask is left out by the caller).
        n_train: training images of the category.
        n_calibration: images held back to set thresholds by.

    Returns:
        Image metrics, pixel metrics and the three counts; None where a metric is undefined.

    Raises:
        InputError: as `image_metrics`.
    """
    return {
        **image_metrics(labels, scores),
        **pixel,
        "n_train": int(n_train),
        "n_calibration": int(n_calibration),
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
