"""Image-level metrics: how well one score a photo separates defective photos from good ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from jaxad.errors import InputError


def image_metrics(labels: npt.ArrayLike, scores: npt.ArrayLike) -> dict[str, float | None]:
    """AUROC, average precision and the best F1 over all thresholds, by scikit-learn.

    Average precision is scikit-learn's step sum, not the trapezoid under the precision-recall
    curve that some papers print.

    Args:
        labels: `(N,)`, 0 or False for good, 1 or True for defective.
        scores: `(N,)`, higher is more anomalous.

    Returns:
        "image_auroc", "image_ap", "image_f1_max", each in [0, 1]; all None where the photos are
        of one class only, because nothing is there to be separated.

    Raises:
        InputError: lengths differ, a label is neither 0 nor 1, or a score is not finite.
    """
    truth, values = _checked(labels, scores)
    if truth.all() or not truth.any():
        return {"image_auroc": None, "image_ap": None, "image_f1_max": None}
    return {
        "image_auroc": float(roc_auc_score(truth, values)),
        "image_ap": float(average_precision_score(truth, values)),
        "image_f1_max": f1_max(truth, values)[0],
    }


def f1_max(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[float, float]:
    """The highest F1 over all thresholds, and the lowest threshold that reaches it.

    A photo counts as defective where `score >= threshold`. The threshold is in raw scores; it is
    chosen with the test labels, so it describes a ranking and is no threshold to ship.

    Args:
        labels: `(N,)` 0 or 1, at least one of them 1.
        scores: `(N,)`.

    Raises:
        InputError: as `image_metrics`, and where no label is 1.
    """
    truth, values = _checked(labels, scores)
    if not truth.any():
        raise InputError("F1 needs at least one defective image, and every label is 0")
    precision, recall, thresholds = precision_recall_curve(truth, values)
    total = precision + recall
    # Nothing found right: precision and recall are both 0 and F1 is 0, not 0/0.
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    best = int(np.argmax(f1[: len(thresholds)]))  # the last point stands for "flag nothing"
    return float(f1[best]), float(thresholds[best])


def presorted(
    labels: npt.ArrayLike, scores: npt.ArrayLike, *, share: float = 0.2
) -> tuple[float | None, float | None]:
    """How much work a detector takes off an inspector at a tolerated share of mistakes.

    The first number is the share of good photos below the score under which `share` of the
    defective ones lie (these need no look, at the price of `share` missed defects). The second is
    the share of defective photos above the score over which `share` of the good ones lie. Known as
    PGn and PBn with n = 100 · share; quantiles are interpolated linearly, comparison is strict.

    Args:
        labels: `(N,)` 0 or 1.
        scores: `(N,)`.
        share: tolerated share of mistakes, in [0, 1].

    Returns:
        `(presorted good, presorted bad)`; both None where the photos are of one class only.

    Raises:
        InputError: as `image_metrics`, and where `share` lies outside [0, 1].
    """
    truth, values = _checked(labels, scores)
    if not 0 <= share <= 1:
        raise InputError(f"share is {share}: it must lie between 0 and 1")
    good, bad = values[~truth], values[truth]
    if not len(good) or not len(bad):
        return None, None
    return (
        float(np.mean(good < np.quantile(bad, share))),
        float(np.mean(bad > np.quantile(good, 1 - share))),
    )


def _checked(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool and scores as float64, both `(N,)`; float64 holds every float32 exactly."""
    truth, values = np.asarray(labels), np.asarray(scores, np.float64)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise InputError(
            f"labels have shape {truth.shape} and image scores {values.shape}: "
            "both must be one number an image"
        )
    if not np.isin(truth, (0, 1)).all():
        raise InputError("labels must be 0 (good) or 1 (defective)")
    finite = np.isfinite(values)
    if not finite.all():
        raise InputError(
            f"the score of image {int(np.argmin(finite))} is {values[np.argmin(finite)]}: "
            "scores must be finite (did training diverge?)"
        )
    return truth.astype(bool), values
