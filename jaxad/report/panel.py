"""What a page shows of one category, as the template takes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, zip_longest
from typing import Any

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from jaxad.report.line import VERDICTS, Line, count, drift, drift_text
from jaxad.report.plots import (
    histogram_svg,
    p_values_svg,
    pr_svg,
    pro_svg,
    roc_svg,
    steps_svg,
)
from jaxad.report.small import pictures
from jaxad.report.thumbnails import thumbnails
from jaxad.report.view import CategoryView, Example, select_examples

_GROUPS = (
    ("defects", "Clearest defects", "defective photos with the highest scores"),
    ("missed", "Hardest defects", "defective photos with the lowest scores"),
    ("normal", "Nearest false alarms", "good photos with the highest scores"),
)


def panel(
    anchor: str,
    name: str,
    view: CategoryView,
    line: Line | None,
    metrics: Mapping[str, Any],
    *,
    budget: float,
) -> dict[str, Any]:
    """All that the template needs of a category.

    Args:
        anchor: Where links lead.
        name: Of the category.
        view: What is shown of it.
        line: Where it starts; None without photos.
        metrics: Its block of results.json.
        budget: Characters that its small pictures may take.
    """
    low, high = view.colours
    threshold = None if line is None else line.threshold
    return {
        "anchor": anchor,
        "name": name,
        "line": line,
        "threshold": "" if line is None else f"{line.threshold:.4g}",
        "told": None if line is None else _told(view, line),
        "data": None if line is None else _data(view, line),
        "plots": [*_plots(view, threshold, metrics), *_calibration_plots(view, line)],
        "drift": _drift(view, line),
        "low": f"{low:.4g}",
        "high": f"{high:.4g}",
        "groups": [
            {"heading": heading, "note": note, "cards": [_card(e, view, line) for e in examples]}
            for field, heading, note in _GROUPS
            if (examples := getattr(view, field))
        ],
        "kinds": [] if line is None else _kinds(view, line),
        **_photos(view, line, budget),
    }


def _told(view: CategoryView, line: Line) -> dict[str, Any]:
    found = count(view.labels, view.scores, line.threshold)
    shares = ("recall", "precision", "f1", "false_alarm_rate")
    return {
        **found._asdict(),
        **{name: _percent(getattr(found, name)) for name in shares},
        "bad": found.found + found.missed,
        "good": found.alarms + found.passed,
    }


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _data(view: CategoryView, line: Line) -> Markup:
    """What the page's script counts by: numbers alone, no text from outside."""
    own = line.calibrated
    data = {
        "scores": view.scores.tolist(),
        "labels": view.labels.astype(int).tolist(),
        "kinds": _kind_numbers(view),
        "line": line.threshold,
        "calibration": own.scores.tolist() if own and own.confidence is None else [],
    }
    # Nothing in it can end the element, whatever comes to stand there.
    return htmlsafe_json_dumps(data, separators=(",", ":"), allow_nan=False)


def _plots(
    view: CategoryView, threshold: float | None, metrics: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    labels, scores = view.labels, view.scores
    yield {
        "plot": Markup(histogram_svg(labels, scores, threshold)),
        "caption": "Scores of good (up) and defective (down) photos",
    }
    yield {"plot": Markup(roc_svg(labels, scores, threshold)), "caption": "ROC curve over photos"}
    yield {
        "plot": Markup(pr_svg(labels, scores, threshold)),
        "caption": "Precision over recall, photos",
    }
    areas = [v for n, v in metrics.items() if n.startswith("aupro_")]
    yield {
        "plot": Markup(pro_svg(view.pro, areas[0] if len(areas) == 1 else None)),
        "caption": "PRO curve over pixels; the area is exact, the curve has fewer points",
    }


def _calibration_plots(view: CategoryView, line: Line | None) -> Iterator[dict[str, Any]]:
    if line is None or line.calibrated is None:
        return
    own, good = line.calibrated, view.scores[view.labels == 0]
    yield {
        "plot": Markup(steps_svg(own.scores, good, own.limits.score)),
        "caption": "Calibration photos (grey) and good test photos: alike where they lie close",
    }
    if len(good):
        yield {
            "plot": Markup(p_values_svg(own.limits.p_values(good))),
            "caption": "P-values of good test photos: level (dashed) where they are like the "
            "calibration's, low ones are unusual",
        }


def _drift(view: CategoryView, line: Line | None) -> str:
    good = view.scores[view.labels == 0]
    if line is None or line.calibrated is None or not len(good):
        return ""
    return drift_text(drift(line.calibrated, good))


def _kind_names(view: CategoryView) -> list[str]:
    """Defect types, good photos first."""
    names = dict.fromkeys(view.kinds)
    return sorted(names, key=lambda name: (name != "good", name))


def _kind_numbers(view: CategoryView) -> list[int]:
    numbers = {name: i for i, name in enumerate(_kind_names(view))}
    return [numbers[name] for name in view.kinds]


def _kinds(view: CategoryView, line: Line) -> list[dict[str, Any]]:
    numbers = np.asarray(_kind_numbers(view), int)
    rows = []
    for i, name in enumerate(_kind_names(view)):
        own = view.scores[numbers == i]
        flagged = int((own > line.threshold).sum())
        rows.append(
            {
                "name": name,
                "photos": len(own),
                "flagged": flagged,
                "share": _percent(flagged / len(own)),
                "middle": f"{np.median(own):.4g}",
                "lowest": f"{own.min():.4g}",
                "highest": f"{own.max():.4g}",
            }
        )
    return rows


def _photos(view: CategoryView, line: Line | None, budget: float) -> dict[str, Any]:
    """The table of all photos, those of the highest scores first."""
    if line is None or not len(view.names):
        return {"rows": [], "bare": 0}
    groups = select_examples(view.labels, view.scores, len(view.labels))
    mixed = chain.from_iterable(zip_longest(groups.missed, groups.normal, groups.defects))
    order = [int(i) for i in mixed if i is not None]
    small = pictures(view.small, view.colours, order, budget)
    shown = {e.number for field, _, _ in _GROUPS for e in getattr(view, field)}
    own = line.calibrated
    p_values = own.limits.p_values(view.scores) if own else None
    rows = [
        {
            "index": i,
            "name": view.names[i],
            "kind": view.kinds[i],
            "score": f"{view.scores[i]:.4g}",
            "p": "" if p_values is None else f"{p_values[i]:.3g}",
            "verdict": _verdict(int(view.labels[i]), float(view.scores[i]), line),
            "picture": small.get(i, ""),
            "large": i in shown,
        }
        for i in np.argsort(-view.scores, kind="stable").tolist()
    ]
    return {"rows": rows, "bare": len(rows) - len(small), "has_p": p_values is not None}


def _verdict(label: int, score: float, line: Line) -> str:
    return VERDICTS[label][score > line.threshold]


def _card(example: Example, view: CategoryView, line: Line | None) -> dict[str, Any]:
    photo, heat = thumbnails(example, view.colours)
    marked = example.mask is not None and example.mask.any()
    return {
        "index": example.number,
        "photo": photo,
        "heat": heat,
        "name": example.name,
        "kind": "defective" if example.label else "good",
        "score": f"{example.score:.4g}",
        "outlined": ", defect outlined" if marked else "",
        "unknown": " · no mask" if example.label and example.mask is None else "",
        "rank": _rank(example, view),
        "verdict": "" if line is None else _verdict(example.label, example.score, line),
    }


def _rank(example: Example, view: CategoryView) -> str:
    """Where a score stands among the photos of the other kind."""
    others = view.scores[view.labels != example.label]
    if not len(others):
        return ""
    if example.label:
        count = int(np.sum(others >= example.score))
        return f"{count} of {len(others)} good photos score as high or higher"
    count = int(np.sum(others <= example.score))
    return f"{count} of {len(others)} defective photos score as low or lower"
