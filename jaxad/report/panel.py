"""What a page shows of one category, as the template takes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, zip_longest
from typing import Any

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from jaxad.report.line import VERDICTS, Line, drift, drift_text
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
    return {
        "anchor": anchor,
        "name": name,
        "line": line,
        "threshold": "" if line is None else _where(line),
        "told": None if line is None else _told(line),
        "data": None if line is None else _data(view, line),
        "plots": [*_plots(view, line, metrics), *_calibration_plots(view, line)],
        "drift": _drift(view, line),
        "low": f"{low:.4g}",
        "high": f"{high:.4g}",
        "groups": [
            {"heading": heading, "note": note, "cards": [_card(e, view, line) for e in examples]}
            for field, heading, note in _GROUPS
            if (examples := getattr(view, field))
        ],
        "kinds": [] if line is None else _kinds(view, line),
        "subclasses": [] if line is None else _subclasses(view, line),
        **_photos(view, line, budget),
    }


def _where(line: Line) -> str:
    """Where the line lies, as the page's script says it, too."""
    return "the line of its subclass" if line.by_subclass else f"{line.threshold:.4g}"


def _what(line: Line | None) -> str:
    """What is compared."""
    return "score less the line of its subclass" if line and line.by_subclass else "image score"


def _told(line: Line) -> dict[str, Any]:
    found = line.counts
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
    own, lines = line.calibrated, line.calibrated.lines if line.calibrated else None
    data = {
        "scores": view.scores.tolist(),
        "labels": view.labels.astype(int).tolist(),
        "kinds": _kind_numbers(view),
        "line": line.threshold,
        # Of every photo, where they differ.
        "lines": lines.scores(view.taken).tolist() if lines and lines.routed else [],
        "calibration": own.compared.tolist() if own and own.confidence is None else [],
    }
    # Nothing in it can end the element, whatever comes to stand there.
    return htmlsafe_json_dumps(data, separators=(",", ":"), allow_nan=False)


def _plots(
    view: CategoryView, line: Line | None, metrics: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    labels, scores = view.labels, view.scores
    compared = (scores, None) if line is None else (line.compared, line.threshold)
    found, aside = None if line is None else line.counts, ""
    if line is not None and line.by_subclass:
        aside = "; it is of one line for all, the mark of a line for each subclass"
    yield {
        "plot": Markup(histogram_svg(labels, *compared, what=_what(line))),
        "caption": "Scores of good (up) and defective (down) photos"
        + (", less the line of each" if aside else ""),
    }
    yield {
        "plot": Markup(roc_svg(labels, scores, found)),
        "caption": f"ROC curve over photos{aside}",
    }
    yield {
        "plot": Markup(pr_svg(labels, scores, found)),
        "caption": f"Precision over recall, photos{aside}",
    }
    areas = [v for n, v in metrics.items() if n.startswith("aupro_")]
    yield {
        "plot": Markup(pro_svg(view.pro, areas[0] if len(areas) == 1 else None)),
        "caption": "PRO curve over pixels; the area is exact, the curve has fewer points",
    }


def _calibration_plots(view: CategoryView, line: Line | None) -> Iterator[dict[str, Any]]:
    if line is None or line.calibrated is None:
        return
    own, good = line.calibrated, view.labels == 0
    steps = steps_svg(own.compared, line.compared[good], line.threshold, what=_what(line))
    yield {
        "plot": Markup(steps),
        "caption": "Calibration photos (grey) and good test photos: alike where they lie close",
    }
    if good.any() and line.p_values is not None:
        yield {
            "plot": Markup(p_values_svg(line.p_values[good])),
            "caption": "P-values of good test photos: level (dashed) where they are like the "
            "calibration's, low ones are unusual",
        }


def _drift(view: CategoryView, line: Line | None) -> str:
    if line is None or view.labels.all():
        return ""
    found = drift(line, view.labels, view.scores)
    return "" if found is None else drift_text(found)


def _subclasses(view: CategoryView, line: Line) -> list[dict[str, Any]]:
    """The lines, where subclasses have their own."""
    if line.calibrated is None or not line.by_subclass:
        return []
    routed = line.calibrated.normal.routed
    return [
        {
            "name": name or "none that is known",
            "calibration": routed.count(name),
            "photos": list(view.taken).count(name),
            "line": f"{line.calibrated.lines.of(name).score:.4g}",
            "own": "" if name in line.by_subclass else ", the category's",
        }
        for name in sorted({*routed, *view.taken})
    ]


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
        flagged = int(line.called[numbers == i].sum())
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
    p_values, taken = line.p_values, view.taken if line.by_subclass else ()
    rows = [
        {
            "index": i,
            "name": view.names[i],
            "kind": view.kinds[i],
            "score": f"{view.scores[i]:.4g}",
            "p": "" if p_values is None else f"{p_values[i]:.3g}",
            "taken": taken[i] if taken else "",
            "verdict": _verdict(i, view, line),
            "picture": small.get(i, ""),
            "large": i in shown,
        }
        for i in np.argsort(-view.scores, kind="stable").tolist()
    ]
    bare = len(rows) - len(small)
    return {"rows": rows, "bare": bare, "has_p": p_values is not None, "has_taken": bool(taken)}


def _verdict(number: int, view: CategoryView, line: Line | None) -> str:
    """Of a photo; nothing where it is not known which of the test photos it is."""
    if line is None or not 0 <= number < len(view.labels):
        return ""
    return VERDICTS[int(view.labels[number])][int(line.called[number])]


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
        "verdict": _verdict(example.number, view, line),
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
