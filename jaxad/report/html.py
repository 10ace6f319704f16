"""One self-contained HTML page a run: figures, curves, and photos beside their heatmaps.

The page loads nothing: styles, images and its one script (`script.js`) are inside, and a content
security policy has the browser load nothing and run no other script, which it knows by its SHA-256.
Without scripts all of it is there to be read. What stands where is in `page.html.jinja` and
`category.html.jinja`; here is what stands in it. The templates escape every text.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from jaxad.errors import printable
from jaxad.files import confined, make_folder, write_text
from jaxad.report.colour import colour_map
from jaxad.report.line import Line, draw
from jaxad.report.panel import panel
from jaxad.report.papers import METRICS, Beside
from jaxad.report.terms import format_metric, metric_meaning, metric_names, metric_title
from jaxad.report.view import CategoryView

_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
    "style-src 'unsafe-inline'"
)
_HEADLINES = ("image_auroc", "pixel_auroc", "aupro_0.30")
_PICTURES = 8e6
"""Characters of a page that small pictures may take, in all categories."""


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    results: Mapping[str, Any],
    categories: Mapping[str, CategoryView],
    config_text: str,
    sections: Sequence[tuple[str, Markup]] = (),
    lines: Mapping[str, Line | None] = MappingProxyType({}),
    beside: Beside | None = None,
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
        lines: name -> where that category starts, as `line.draw` gives it; where there is none, at
            the best F1 of the test photos.
        beside: a paper's figures.

    Raises:
        InputError: the file can not be written, or its folder is a link that leads elsewhere.
    """
    target = Path(path)
    if target.parent.is_symlink():  # in a stranger's work directory it may lead anywhere
        confined(target.parent.parent, target.parent.name)
    script = part("script.js")
    page = template("page.html.jinja").render(
        policy=f"{_POLICY}; script-src '{policy_hash(script)}'",
        style=Markup(part("style.css")),
        script=Markup(script),
        title=title,
        about=" · ".join(str(results[key]) for key in ("method", "dataset") if key in results),
        tiles=_tiles(results),
        table=_table(results, categories),
        papers=_papers(results, beside),
        categories=[
            panel(
                *(anchor, name, view, lines[name] if name in lines else draw(*view[:2])),
                results["categories"].get(name, {}),
                budget=_PICTURES / len(categories),
            )
            for (name, anchor), view in zip(_anchors(categories).items(), categories.values())
        ],
        gradient=_gradient(),
        sections=sections,
        run=_run(results),
        config=Markup("\n").join(printable(line) for line in config_text.split("\n")),
    )
    make_folder(target.parent)
    write_text(target, page)


@functools.cache
def template(name: str) -> Template:
    """A page; texts are made printable and then escaped, wherever they stand in it."""
    environment = Environment(
        loader=FunctionLoader(part),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def policy_hash(text: str) -> str:
    """What a content security policy calls an inline script or style by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def part(name: str) -> str:
    """A file of this room, as text."""
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


def _papers(results: Mapping[str, Any], beside: Beside | None) -> dict[str, Any] | None:
    """The paper's figures beside ours, a row a category that both have."""
    if beside is None:
        return None
    paper, found = beside.paper, results["categories"]
    rows = [
        (name, [_pair(found[name].get(metric), row[i]) for i, metric in enumerate(METRICS)])
        for name, row in paper.categories.items()
        if name in found
    ]
    mean = None
    # A mean of other categories, or of some, is not the paper's.
    of = paper.mean_of or paper.categories.keys()
    if paper.mean is not None and (not of or of == found.keys()):
        ours = results["mean"]
        mean = [_pair(ours.get(metric), paper.mean[i]) for i, metric in enumerate(METRICS)]
    if not rows and mean is None:
        return None
    return {
        "names": [metric_title(metric) for metric in METRICS],
        "rows": rows,
        "mean": mean,
        "source": paper.source,
        "config": paper.config,
        "differences": beside.differences,
    }


def _pair(ours: float | None, theirs: float | None) -> tuple[str, str, str]:
    """Our figure, the paper's, and how far ours lies above, in percent."""
    told = ["–" if ours is None else f"{100 * ours:.2f}", "–" if theirs is None else f"{theirs:g}"]
    apart = "" if ours is None or theirs is None else f"{100 * ours - theirs:+.2f}"
    return told[0], told[1], apart


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
