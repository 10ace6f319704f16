"""What a page draws of one category: curves, histograms and, of a calibration, how it fits."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from jaxad.report.axes import (
    area,
    axes,
    curve,
    dot_mark,
    line,
    names,
    svg,
    text,
    unit_frame,
    upright_mark,
    x_of,
    y_of,
)
from jaxad.report.line import Counts

_ONE_CLASS = '<p class="note">{} needs both good and defective photos.</p>'
_BINS = 10
"""Of p-values."""


def roc_svg(labels: np.ndarray, scores: np.ndarray, found: Counts | None = None) -> str:
    """The image-level ROC curve, or a sentence where the photos are of one class only.

    `found` is marked.
    """
    if len(np.unique(labels)) < 2:
        return _ONE_CLASS.format("A ROC curve")
    fpr, tpr, _ = roc_curve(labels, scores)
    auroc = roc_auc_score(labels, scores)
    points = [*zip(fpr.tolist(), tpr.tolist())]
    body = [
        *unit_frame("good photos flagged", "defects found"),
        line(x_of(0), y_of(0), x_of(1), y_of(1), "chance"),
        area(points),
        curve(points),
        text(x_of(1) - 8, y_of(0) - 10, f"AUROC {auroc:.4f}", "end", "figure"),
    ]
    if found is not None:
        body.append(dot_mark(found.false_alarm_rate or 0.0, found.recall or 0.0))
    return svg(f"ROC curve of image scores, AUROC {auroc:.4f}", body, kind="roc")


def pr_svg(labels: np.ndarray, scores: np.ndarray, found: Counts | None = None) -> str:
    """Precision over recall, in the steps whose area is the average precision; marks `found`."""
    if len(np.unique(labels)) < 2:
        return _ONE_CLASS.format("A precision-recall curve")
    precision, recall, _ = precision_recall_curve(labels, scores)
    ap = average_precision_score(labels, scores)
    # From many photos flagged to few: to each recall, the precision from there to the next one.
    steps = [
        point
        for i in range(len(recall) - 1, 0, -1)
        for point in ((recall[i], precision[i - 1]), (recall[i - 1], precision[i - 1]))
    ]
    points = [(float(a), float(b)) for a, b in steps]
    body = [
        *unit_frame("defects found (recall)", "flagged photos that are defective"),
        area(points),
        curve(points),
        text(x_of(0) + 10, y_of(0) - 10, f"AP {ap:.4f}", "start", "figure"),
    ]
    if found is not None:
        precise = 1.0 if found.precision is None else found.precision
        body.append(dot_mark(found.recall or 0.0, precise))
    return svg(f"Precision over recall of image scores, AP {ap:.4f}", body, kind="pr")


def pro_svg(points: np.ndarray | None, aupro: float | None) -> str:
    """The per-region overlap over the false-positive rate of pixels, up to the limit.

    Args:
        points: `(2, P)`: rates and overlaps; None where there are no masks.
        aupro: The exact area, to be told; the curve has fewer points than it was taken of.
    """
    if points is None or aupro is None:
        return '<p class="note">A PRO curve needs masks of defects.</p>'
    end = float(points[0, -1]) or 1.0
    shares = [*zip((points[0] / end).tolist(), points[1].tolist())]
    said = f"AUPRO {aupro:.4f}"
    body = [
        *unit_frame("normal pixels flagged", "overlap with defects", x_end=end),
        area(shares),
        curve(shares),
        text(x_of(1) - 8, y_of(0) - 10, said, "end", "figure"),
    ]
    return svg(f"PRO curve of pixel scores up to {end:g}, {said}", body)


def histogram_svg(
    labels: np.ndarray,
    scores: np.ndarray,
    threshold: float | None = None,
    *,
    bins: int = 30,
    what: str = "image score",
) -> str:
    """Image scores (or `what` else) of good photos (up) and defective photos (down) over one axis.

    A few far outliers would squeeze all other bars into one, so the axis ends at twice the
    distance from the lowest score to the 95th percentile, or at the threshold where that lies
    beyond, and the last bar takes what lies farther out.
    """
    if not len(scores):
        return '<p class="note">There are no test photos.</p>'
    truth = np.asarray(labels).astype(bool)
    values = np.asarray(scores, np.float64)
    low, top = float(values.min()), float(values.max())
    reach = low + 2 * (float(np.percentile(values, 95)) - low)
    high = reach if low < reach < top else top
    if threshold is not None:  # where a calibration draws it, it may lie beyond all of them
        low, high = min(low, threshold), max(high, threshold)
    # Equal scores, or scores so close that float64 can not part them, make a single bar.
    edges = np.linspace(low, high, bins + 1)
    if not (np.diff(edges) > 0).all():
        edges = np.array([low, np.nextafter(max(top, high), np.inf)])
    clipped = np.minimum(values, edges[-1])
    good, _ = np.histogram(clipped[~truth], edges)
    bad, _ = np.histogram(clipped[truth], edges)
    tallest = max(int(good.max()), int(bad.max()), 1)
    middle, half = (y_of(0) + y_of(1)) / 2, (y_of(0) - y_of(1)) / 2
    bars = []
    for i, (up, down) in enumerate(zip(good, bad)):
        span = f"{edges[i]:.4g} to {edges[i + 1]:.4g}"
        for photos, name, sign in ((int(up), "good", -1), (int(down), "bad", 1)):
            if photos:
                size = half * photos / tallest
                start = middle - size if sign < 0 else middle
                said = f"{photos} photos, score {span}"
                bars.append(_bar(i, len(good), start, size, name, said))
    last = f"≥ {high:.4g}" if high < top else f"{high:.4g}"
    body = [
        line(x_of(0), y_of(1), x_of(1), y_of(1), "grid"),
        line(x_of(0), y_of(0), x_of(1), y_of(0), "grid"),
        *bars,
        axes(middle),
        text(x_of(0), y_of(0) + 16, f"{low:.4g}", "start"),
        text(x_of(1), y_of(0) + 16, last, "end"),
        text(x_of(0) - 7, y_of(1) + 4, str(tallest), "end"),
        text(x_of(0) - 7, middle + 4, "0", "end"),
        text(x_of(0) - 7, y_of(0) + 4, str(tallest), "end"),
        *names(what, "photos"),
        text(x_of(1) - 4, y_of(1) + 14, f"good ({int((~truth).sum())})", "end", "good"),
        text(x_of(1) - 4, y_of(0) - 8, f"defective ({int(truth.sum())})", "end", "bad"),
    ]
    ends = (float(edges[0]), float(edges[-1]))
    if threshold is not None:
        body.append(upright_mark(_share(threshold, *ends)))
    label = f"Histogram of the scores of {(~truth).sum()} good and {truth.sum()} defective photos"
    return svg(label, body, kind="score", scale=ends)


def steps_svg(
    calibration: np.ndarray, good: np.ndarray, threshold: float, *, what: str = "image score"
) -> str:
    """Shares of calibration photos and of good test photos up to each score.

    Args:
        calibration: `(n,)` scores.
        good: `(m,)` scores; may be none.
        threshold: To be marked.
        what: The scores are.
    """
    every = np.concatenate([calibration, good, [threshold]])
    low, high = float(every.min()), float(every.max())
    if not high > low:
        high = float(np.nextafter(low, np.inf))

    def steps(scores: np.ndarray) -> list[tuple[float, float]]:
        x = np.sort(scores)
        shares = [_share(float(value), low, high) for value in x]
        heights = np.arange(len(x) + 1) / max(len(x), 1)
        ends = [(x, float(h)) for i, x in enumerate(shares) for h in heights[i : i + 2]]
        return [(0.0, 0.0), *ends, (1.0, 1.0)]

    body = [
        line(x_of(0), y_of(1), x_of(1), y_of(1), "grid"),
        axes(y_of(0)),
        text(x_of(0), y_of(0) + 16, f"{low:.4g}", "start"),
        text(x_of(1), y_of(0) + 16, f"{high:.4g}", "end"),
        *(text(x_of(0) - 7, y_of(t) + 4, f"{t:g}", "end") for t in (0, 1)),
        *names(what, "share of photos up to it"),
        curve(steps(calibration), "reference"),
        *([curve(steps(good))] if len(good) else []),
        upright_mark(_share(threshold, low, high)),
        text(x_of(1) - 8, y_of(0) - 26, f"calibration ({len(calibration)})", "end", "reference"),
        text(x_of(1) - 8, y_of(0) - 10, f"good test photos ({len(good)})", "end", "good"),
    ]
    label = f"Scores of {len(calibration)} calibration photos and {len(good)} good test photos"
    return svg(label, body, kind="score", scale=(low, high))


def p_values_svg(values: np.ndarray) -> str:
    """Histogram of p-values in (0, 1], with what equal shares would be; values `(m,)`, m > 0."""
    counts, _ = np.histogram(values, np.linspace(0, 1, _BINS + 1))
    tallest = max(int(counts.max()), 1)
    level = y_of(len(values) / _BINS / tallest)
    full = y_of(0) - y_of(1)
    bars = []
    for i, photos in enumerate(counts.tolist()):
        if photos:
            size, span = full * photos / tallest, f"{i / _BINS:g} to {(i + 1) / _BINS:g}"
            said = f"{photos} photos, p-value {span}"
            bars.append(_bar(i, _BINS, y_of(0) - size, size, "good", said))
    body = [
        line(x_of(0), y_of(1), x_of(1), y_of(1), "grid"),
        *bars,
        axes(y_of(0)),
        line(x_of(0), level, x_of(1), level, "chance"),
        *(text(x_of(t), y_of(0) + 16, f"{t:g}", "middle") for t in (0, 0.5, 1)),
        text(x_of(0) - 7, y_of(1) + 4, str(tallest), "end"),
        text(x_of(0) - 7, y_of(0) + 4, "0", "end"),
        *names("p-value", "good test photos"),
    ]
    return svg(f"Histogram of the p-values of {len(values)} good test photos", body)


def _bar(i: int, bars: int, y: float, height: float, name: str, said: str) -> str:
    width = (x_of(1) - x_of(0)) / bars
    return (
        f'<rect class="{name}" x="{x_of(0) + i * width + 0.5:.1f}" y="{y:.1f}" '
        f'width="{max(width - 1, 0.5):.1f}" height="{height:.1f}"><title>{said}</title></rect>'
    )


def _share(value: float, low: float, high: float) -> float:
    """Where a value lies between two others, 0 to 1."""
    return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.0
