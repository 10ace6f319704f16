"""One self-contained HTML page a run: figures, curves, and photos beside their heatmaps.

The page loads nothing and runs nothing: styles and images are inside, there are no scripts, and a
content security policy says so to the browser. What stands where is in `page.html.jinja`; here is
what stands in it. The template escapes every text.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from jaxad.errors import printable
from jaxad.files import confined, make_folder, write_text
from jaxad.report.colour import colour_map
from jaxad.report.plots import histogram_svg, roc_svg
from jaxad.report.terms import format_metric, metric_meaning, metric_names, metric_title
from jaxad.report.thumbnails import thumbnails
from jaxad.report.view import CategoryView, Example

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_HEADLINES = ("image_auroc", "pixel_auroc", "aupro_0.30")
_GROUPS = (
    ("defects", "Clearest defects", "defective photos with the highest scores"),
    ("missed", "Hardest defects", "defective photos with the lowest scores"),
    ("normal", "Nearest false alarms", "good photos with the highest scores"),
)


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    results: Mapping[str, Any],
    categories: Mapping[str, CategoryView],
    config_text: str,
    sections: Sequence[tuple[str, Markup]] = (),
) -> None:
    """Write the report of a run, whole or not at all.

    Args:
        path: the HTML file; its folder is made where it is missing.
        title: heading of the page.
        results: what results.json holds.
        categories: name -> what is shown of that category, in the order of the page; a category
            of `results` may be missing here and then appears in the table only.
        config_text: the run's configuration, shown verbatim.
        sections: more of them, before "The run": heading and content, which is not escaped.

    Raises:
        InputError: the file can not be written, or its folder is a link that leads elsewhere.
    """
    target = Path(path)
    if target.parent.is_symlink():  # in a stranger's work directory it may lead anywhere
        confined(target.parent.parent, target.parent.name)
    page = _template().render(
        policy=_POLICY,
        style=Markup(_part("style.css")),
        title=title,
        about=" · ".join(str(results[key]) for key in ("method", "dataset") if key in results),
        tiles=_tiles(results),
        table=_table(results, categories),
        categories=[
            _category(anchor, name, categories[name])
            for name, anchor in _anchors(categories).items()
        ],
        gradient=_gradient(),
        sections=sections,
        run=_run(results),
        config=Markup("\n").join(printable(line) for line in config_text.split("\n")),
    )
    make_folder(target.parent)
    write_text(target, page)


@functools.cache
def _template() -> Template:
    """The page; texts are made printable and then escaped, wherever they stand in it."""
    environment = Environment(
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.from_string(_part("page.html.jinja"))


def _part(name: str) -> str:
    return resources.files("jaxad.report").joinpath(name).read_text("utf-8")


def _anchors(categories: Mapping[str, CategoryView]) -> dict[str, str]:
    """Where links lead: numbers, for a name may hold anything."""
    return {name: f"category-{number}" for number, name in enumerate(categories, start=1)}


def _tiles(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and note of the headlines."""
    mean = results["mean"]
    where = "mean of categories" if len(results["categories"]) > 1 else "over the test photos"
    tiles = [
        (metric_title(name), format_metric(mean[name]), where)
        for name in _HEADLINES
        if mean.get(name) is not None
    ]
    if results.get("images_per_second") is not None:
        speed = f"{results['images_per_second']:.1f}"
        tiles.append(("photos per second", speed, "scoring, on this machine"))
    return tiles


def _table(results: Mapping[str, Any], categories: Mapping[str, CategoryView]) -> dict[str, Any]:
    names = metric_names(results["categories"].values())
    anchors, mean = _anchors(categories), results["mean"]
    return {
        "names": [metric_title(name) for name in names],
        "rows": [
            {
                "name": category,
                "anchor": anchors.get(category),
                "cells": [format_metric(metrics.get(name)) for name in names],
            }
            for category, metrics in results["categories"].items()
        ],
        "mean": [format_metric(mean[name]) if name in mean else "" for name in names],
        "undefined": any(None in metrics.values() for metrics in results["categories"].values()),
        "meanings": [
            (metric_title(name), metric_meaning(name)) for name in names if metric_meaning(name)
        ],
    }


def _category(anchor: str, name: str, view: CategoryView) -> dict[str, Any]:
    low, high = view.colours
    return {
        "anchor": anchor,
        "name": name,
        "roc": Markup(roc_svg(view.labels, view.scores)),
        "histogram": Markup(histogram_svg(view.labels, view.scores)),
        "low": f"{low:.4g}",
        "high": f"{high:.4g}",
        "groups": [
            {"heading": heading, "note": note, "cards": [_card(e, view) for e in examples]}
            for field, heading, note in _GROUPS
            if (examples := getattr(view, field))
        ],
    }


def _card(example: Example, view: CategoryView) -> dict[str, str]:
    photo, heat = thumbnails(example, view.colours)
    marked = example.mask is not None and example.mask.any()
    return {
        "photo": photo,
        "heat": heat,
        "name": example.name,
        "kind": "defective" if example.label else "good",
        "score": f"{example.score:.4g}",
        "outlined": ", defect outlined" if marked else "",
        "unknown": " · no mask" if example.label and example.mask is None else "",
        "rank": _rank(example, view),
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


def _run(results: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    rows = [
        (f"seconds: {name}", f"{value:.1f}") for name, value in results.get("seconds", {}).items()
    ]
    if results.get("images_per_second") is not None:
        rows.append(("photos per second", f"{results['images_per_second']:.1f}"))
    for name, value in results.get("environment", {}).items():
        shown = value if isinstance(value, str) else json.dumps(value, default=str)
        rows.append((name, shown))
    return rows


def _gradient() -> str:
    stops = [f"rgb({r} {g} {b})" for r, g, b in colour_map(np.linspace(0, 1, 13)).tolist()]
    return f"linear-gradient(90deg, {', '.join(stops)})"
