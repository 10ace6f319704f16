"""Bootstrap over photos: how far a figure would move with other test photos of the same kind.

Photos are drawn with replacement, good and defective ones apart, so that every resample has as many
of each as the test set. It says nothing of what another seed of the training would do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FEWEST = 5
"""Photos of each kind, below which resamples say too little."""


def draws(labels: np.ndarray, resamples: int, *, seed: int = 0) -> np.ndarray:
    """How often each photo is drawn in each resample: `(resamples, N)` int64.

    The same labels and seed give the same, and the first ones do not depend on how many there are:
    two detectors judged on the same photos are compared on the same resamples.
    """
    weights = np.zeros((resamples, len(labels)), np.int64)
    for kind in (0, 1):
        own = np.flatnonzero(labels == kind)
        if len(own):
            rng = np.random.default_rng((seed, kind))
            even = np.full(len(own), 1 / len(own))
            weights[:, own] = rng.multinomial(len(own), even, size=resamples)
    return weights


def interval(values: np.ndarray | None) -> tuple[float | None, float | None]:
    """The middle 95 % of resampled figures; None where there are none, or some are undefined."""
    if values is None or not len(values) or not np.isfinite(values).all():
        return None, None
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


class ImageFigures(NamedTuple):
    """Image figures of each resample, `(R,)` each."""

    auroc: np.ndarray
    ap: np.ndarray
    """By scikit-learn's step sum."""
    ap_trapezoid: np.ndarray
    """The area under straight lines between the points of the curve, which begins at (0, 1)."""
    f1_max: np.ndarray


def image_figures(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> ImageFigures:
    """Image figures with every photo counted as often as its weight says; nothing is binned.

    Args:
        labels: `(N,)` 0 or 1, both of them there.
        scores: `(N,)`.
        weights: `(R, N)`, of each kind at least one above 0.
    """
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    starts = np.flatnonzero(np.append(True, falling[1:] != falling[:-1]))
    truth, own = labels[order].astype(bool), weights[:, order]
    found = np.add.reduceat(own * truth, starts, axis=1)
    wrong = np.add.reduceat(own * ~truth, starts, axis=1)
    tp, fp = np.cumsum(found, axis=1), np.cumsum(wrong, axis=1)
    bad, good = tp[:, -1:], fp[:, -1:]
    # A tie counts one half.
    pairs = np.sum(wrong * (tp - found / 2), axis=1) / (bad * good)[:, 0]
    named = tp + fp
    # Before the first photo that was drawn the curve stands at its beginning.
    precision = np.divide(tp, named, out=np.ones(tp.shape), where=named > 0)
    before = np.concatenate([np.ones((len(tp), 1)), precision[:, :-1]], axis=1)
    return ImageFigures(
        auroc=pairs,
        ap=np.sum(found * precision, axis=1) / bad[:, 0],
        ap_trapezoid=np.sum(found * (precision + before) / 2, axis=1) / bad[:, 0],
        f1_max=np.max(2 * tp / (bad + named), axis=1),
    )
