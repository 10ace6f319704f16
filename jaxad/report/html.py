"""One self-contained HTML page a run: figures, curves, and photos beside their heatmaps.

The page loads nothing and runs nothing: styles and images are inside, there are no scripts, and a
content security policy says so to the browser. Every text that comes from outside is escaped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from jaxad.report.colour import colour_map
from jaxad.report.plots import histogram_svg, roc_svg
from jaxad.report.terms import (
    format_metric,
    metric_meaning,
    metric_names,
    metric_title,
    printable,
)
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
) -> None:
    """Write the report of a run.

    The page is written beside `path` first and then renamed, so a reader never meets half a page.

    Args:
        path: the HTML file; its folder is made where it is missing.
        title: heading of the page.
        results: what results.json holds.
        categories: name -> what is shown of that category, in the order of the page; a category
            of `results` may be missing here and then appears in the table only.
        config_text: the run's configuration, shown verbatim.

    Raises:
        OSError: the file can not be written.
    """
    page = _page(title, results, categories, config_text)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        # File names may hold bytes that are no text at all; they are shown, not choked on.
        temporary.write_bytes(page.encode("utf-8", errors="backslashreplace"))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _page(
    title: str,
    results: Mapping[str, Any],
    categories: Mapping[str, CategoryView],
    config_text: str,
) -> str:
    style = resources.files("jaxad.report").joinpath("style.css").read_text("utf-8")
    sections = [
        _category(f"category-{number}", name, view)
        for number, (name, view) in enumerate(categories.items(), start=1)
    ]
    about = " · ".join(_text(results[key]) for key in ("method", "dataset") if key in results)
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{_text(title)}</title><style>{style}</style></head><body>",
            f'<header><p class="about">{about}</p><h1>{_text(title)}</h1>{_nav(categories)}',
            f"</header><main>{_tiles(results)}",
            _table(results, categories),
            _how_to_read() if categories else "",
            *sections,
            _run(results, config_text),
            "</main></body></html>",
        ]
    )


def _nav(categories: Mapping[str, CategoryView]) -> str:
    links = [
        f'<a href="#category-{number}">{_text(name)}</a>'
        for number, name in enumerate(categories, start=1)
    ]
    return f'<nav aria-label="Categories">{"".join(links)}</nav>' if len(links) > 1 else ""


def _tiles(results: Mapping[str, Any]) -> str:
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
    cells = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}<small>{_text(note)}</small></dd></div>"
        for name, value, note in tiles
    )
    return f'<dl class="tiles">{cells}</dl>' if cells else ""


def _table(results: Mapping[str, Any], categories: Mapping[str, CategoryView]) -> str:
    names = metric_names(results["categories"].values())
    links = {name: f"#category-{number}" for number, name in enumerate(categories, start=1)}
    head = "".join(f'<th scope="col">{_text(metric_title(name))}</th>' for name in names)
    rows = []
    for category, metrics in results["categories"].items():
        cells = "".join(f"<td>{format_metric(metrics.get(name))}</td>" for name in names)
        heading = _text(category)
        if category in links:
            heading = f'<a href="{links[category]}">{heading}</a>'
        rows.append(f'<tr><th scope="row">{heading}</th>{cells}</tr>')
    mean = results["mean"]
    cells = "".join(
        f"<td>{format_metric(mean[name]) if name in mean else ''}</td>" for name in names
    )
    meanings = "".join(
        f"<div><dt>{_text(metric_title(name))}</dt><dd>{_text(metric_meaning(name))}</dd></div>"
        for name in names
        if metric_meaning(name)
    )
    missing = any(None in metrics.values() for metrics in results["categories"].values())
    note = (
        '<p class="note">A dash marks a figure that is undefined: pixel figures need masks, image '
        "figures need both good and defective photos. A mean is over the categories that have the "
        "figure.</p>"
    )
    return (
        '<section><h2>Figures</h2><div class="wide"><table class="metrics">'
        f'<thead><tr><th scope="col">category</th>{head}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody><tfoot><tr><th scope="row">mean</th>{cells}</tr></tfoot>'
        f"</table></div>{note if missing else ''}"
        f'<details><summary>What the figures mean</summary><dl class="terms">{meanings}</dl>'
        "</details></section>"
    )


def _how_to_read() -> str:
    return (
        "<section><h2>How to read the photos</h2><p>Each photo stands beside its heatmap: a grey "
        "copy of the photo under the raw anomaly scores. A <em>cyan line</em> runs around the "
        "defect as it was marked by hand, where such a mask exists. The colours of a category are "
        "<em>one scale for all its photos</em>: they set in at the score that one pixel in twenty "
        "of good test photos exceeds and end at the score that one in a thousand of all pixels "
        "exceeds. So a good photo should look almost plainly grey, and the same colour means the "
        "same score in every photo.</p></section>"
    )


def _category(anchor: str, name: str, view: CategoryView) -> str:
    groups = [_group(heading, note, getattr(view, field), view) for field, heading, note in _GROUPS]
    low, high = view.colours
    return (
        f'<section id="{anchor}" class="category"><h2>{_text(name)}</h2>'
        f'<div class="plots"><figure>{roc_svg(view.labels, view.scores)}'
        "<figcaption>ROC curve over photos</figcaption></figure>"
        f"<figure>{histogram_svg(view.labels, view.scores)}"
        "<figcaption>Scores of good (up) and defective (down) photos</figcaption></figure></div>"
        f'<p class="scale"><span>heatmap, pixel score</span><span>{low:.4g}</span>'
        f'<span class="bar" style="background:{_gradient()}" role="img" '
        f'aria-label="Heatmap colours from score {low:.4g} to {high:.4g}"></span>'
        f"<span>{high:.4g}</span></p>{''.join(groups)}</section>"
    )


def _group(heading: str, note: str, examples: Sequence[Example], view: CategoryView) -> str:
    if not examples:
        return ""
    cards = "".join(_card(example, view) for example in examples)
    return f'<h3>{heading}<small>{note}</small></h3><div class="gallery">{cards}</div>'


def _card(example: Example, view: CategoryView) -> str:
    photo, heat = thumbnails(example, view.colours)
    kind = "defective" if example.label else "good"
    name, score = _text(example.name), f"{example.score:.4g}"
    outlined = "" if example.mask is None or not example.mask.any() else ", defect outlined"
    unknown = " · no mask" if example.label and example.mask is None else ""
    return (
        f'<figure class="card"><div class="pair">'
        f'<img src="{photo}" alt="Photo {name}, {kind}{outlined}">'
        f'<img src="{heat}" alt="Heatmap of {name}, {kind}, score {score}{outlined}"></div>'
        f'<figcaption><b class="name">{name}</b><span class="{"bad" if example.label else "good"}">'
        f"{kind}</span> score {score}{unknown}<br>{_rank(example, view)}</figcaption></figure>"
    )


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


def _run(results: Mapping[str, Any], config_text: str) -> str:
    rows = [
        (f"seconds: {name}", f"{value:.1f}") for name, value in results.get("seconds", {}).items()
    ]
    if results.get("images_per_second") is not None:
        rows.append(("photos per second", f"{results['images_per_second']:.1f}"))
    for name, value in results.get("environment", {}).items():
        shown = value if isinstance(value, str) else json.dumps(value, default=str)
        rows.append((name, shown))
    body = "".join(
        f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>'
        for name, value in rows
    )
    return (
        f'<section><h2>The run</h2><div class="wide"><table class="run">{body}</table></div>'
        f"<details><summary>Configuration</summary><pre>{_lines(config_text)}</pre></details>"
        "</section>"
    )


def _gradient() -> str:
    stops = [f"rgb({r} {g} {b})" for r, g, b in colour_map(np.linspace(0, 1, 13)).tolist()]
    return f"linear-gradient(90deg, {', '.join(stops)})"


def _text(text: object) -> str:
    return escape(printable(text))


def _lines(text: str) -> str:
    return "\n".join(map(_text, text.split("\n")))
