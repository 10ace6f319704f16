"""Small plots as inline SVG: they take their colours from the page's style sheet."""

from __future__ import annotations

from html import escape

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

_WIDTH, _HEIGHT = 360, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 14, 40


def roc_svg(labels: np.ndarray, scores: np.ndarray) -> str:
    """The image-level ROC curve, or a sentence where the photos are of one class only."""
    if len(np.unique(labels)) < 2:
        return '<p class="note">A ROC curve needs both good and defective photos.</p>'
    fpr, tpr, _ = roc_curve(labels, scores)
    auroc = roc_auc_score(labels, scores)
    line = " ".join(f"{_x(a):.1f},{_y(b):.1f}" for a, b in zip(fpr.tolist(), tpr.tolist()))
    area = f"{_x(0):.1f},{_y(0):.1f} {line} {_x(1):.1f},{_y(0):.1f}"
    ticks = [
        *(_text(_x(t), _y(0) + 16, f"{t:g}", "middle") for t in (0, 0.5, 1)),
        *(_text(_x(0) - 7, _y(t) + 4, f"{t:g}", "end") for t in (0, 0.5, 1)),
    ]
    body = [
        *(_line(_x(0), _y(t), _x(1), _y(t), "grid") for t in (0.5, 1)),
        *(_line(_x(t), _y(0), _x(t), _y(1), "grid") for t in (0.5, 1)),
        _line(_x(0), _y(0), _x(1), _y(1), "chance"),
        f'<polygon class="area" points="{area}"/>',
        f'<polyline class="curve" points="{line}"/>',
        _axes(_y(0)),
        *ticks,
        _text(_x(0.5), _HEIGHT - 6, "good photos flagged", "middle"),
        _upright("defects found"),
        _text(_x(1) - 8, _y(0) - 10, f"AUROC {auroc:.4f}", "end", "figure"),
    ]
    return _svg(f"ROC curve of image scores, AUROC {auroc:.4f}", body)


def histogram_svg(labels: np.ndarray, scores: np.ndarray, *, bins: int = 30) -> str:
    """Image scores of good photos (up) and defective photos (down) over one axis.

    A few far outliers would squeeze all other bars into one, so the axis ends at twice the
    distance from the lowest score to the 95th percentile and the last bar takes what lies beyond.
    """
    if not len(scores):
        return '<p class="note">There are no test photos.</p>'
    truth = np.asarray(labels).astype(bool)
    values = np.asarray(scores, np.float64)
    low, top = float(values.min()), float(values.max())
    reach = low + 2 * (float(np.percentile(values, 95)) - low)
    high = reach if low < reach < top else top
    # Equal scores, or scores so close that float64 can not part them, make a single bar.
    edges = np.linspace(low, high, bins + 1)
    if not (np.diff(edges) > 0).all():
        edges = np.array([low, np.nextafter(top, np.inf)])
    clipped = np.minimum(values, edges[-1])
    good, _ = np.histogram(clipped[~truth], edges)
    bad, _ = np.histogram(clipped[truth], edges)
    tallest = max(int(good.max()), int(bad.max()), 1)
    middle, half = (_y(0) + _y(1)) / 2, (_y(0) - _y(1)) / 2
    width = (_x(1) - _x(0)) / len(good)
    bars = []
    for i, (up, down) in enumerate(zip(good, bad)):
        left = _x(0) + i * width + 0.5
        span = f"{edges[i]:.4g} to {edges[i + 1]:.4g}"
        for count, name, sign in ((int(up), "good", -1), (int(down), "bad", 1)):
            if count:
                size = half * count / tallest
                start = middle - size if sign < 0 else middle
                bars.append(
                    f'<rect class="{name}" x="{left:.1f}" y="{start:.1f}" '
                    f'width="{max(width - 1, 0.5):.1f}" height="{size:.1f}">'
                    f"<title>{count} photos, score {span}</title></rect>"
                )
    last = f"≥ {high:.4g}" if high < top else f"{high:.4g}"
    body = [
        _line(_x(0), _y(1), _x(1), _y(1), "grid"),
        _line(_x(0), _y(0), _x(1), _y(0), "grid"),
        *bars,
        _axes(middle),
        _text(_x(0), _y(0) + 16, f"{low:.4g}", "start"),
        _text(_x(1), _y(0) + 16, last, "end"),
        _text(_x(0) - 7, _y(1) + 4, str(tallest), "end"),
        _text(_x(0) - 7, middle + 4, "0", "end"),
        _text(_x(0) - 7, _y(0) + 4, str(tallest), "end"),
        _text(_x(0.5), _HEIGHT - 6, "image score", "middle"),
        _upright("photos"),
        _text(_x(1) - 4, _y(1) + 14, f"good ({int((~truth).sum())})", "end", "good"),
        _text(_x(1) - 4, _y(0) - 8, f"defective ({int(truth.sum())})", "end", "bad"),
    ]
    label = f"Histogram of the scores of {(~truth).sum()} good and {truth.sum()} defective photos"
    return _svg(label, body)


def _x(share: float) -> float:
    """Abscissa of a share of the plot's width."""
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(share: float) -> float:
    """Ordinate of a share of the plot's height, counted from below."""
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _svg(label: str, body: list[str]) -> str:
    text = escape(label)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text}">'
        f"<title>{text}</title>{''.join(body)}</svg>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _axes(level: float) -> str:
    return _line(_x(0), _y(1), _x(0), _y(0), "axis") + _line(_x(0), level, _x(1), level, "axis")


def _text(x: float, y: float, text: str, anchor: str, name: str = "tick") -> str:
    return (
        f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _upright(text: str) -> str:
    y = (_y(0) + _y(1)) / 2
    return (
        f'<text class="tick" transform="translate(12 {y:.1f}) rotate(-90)" '
        f'text-anchor="middle">{escape(text)}</text>'
    )
