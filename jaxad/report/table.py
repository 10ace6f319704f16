"""The metric table as plain text, for any terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxad.errors import printable
from jaxad.report.terms import format_metric, metric_names, metric_title

_PLAIN = {"–": "-", "─": "-", "±": "+-", "…": "...", "×": "x", "→": "->"}
"""What stands for our own signs where an encoding has none."""


def fitting(text: str, encoding: str | None) -> str:
    r"""The text in signs that a stream can carry.

    Args:
        text: Anything, line ends included.
        encoding: Of the stream, as `sys.stdout.encoding` says; None for one that takes any text.

    Returns:
        Our own signs as plain ones, all others that do not fit escaped: `\xe9`.
    """
    if encoding is None:
        return text
    return "".join(_fitting(sign, encoding) for sign in text)


def _fitting(sign: str, encoding: str) -> str:
    try:
        sign.encode(encoding)
    except UnicodeEncodeError:
        return _PLAIN.get(sign) or sign.encode("ascii", errors="backslashreplace").decode()
    return sign


def format_table(results: Mapping[str, Any], *, encoding: str | None = None) -> str:
    """Lay out the metrics of every category and their mean in aligned columns.

    Args:
        results: what results.json holds; only "categories" and "mean" are read.
        encoding: of the stream that the table is printed to, see `fitting`.

    Returns:
        Lines joined by newlines, without one at the end; a dash stands for an undefined metric.
    """
    categories: Mapping[str, Mapping[str, Any]] = results["categories"]
    names = metric_names(categories.values())
    rows = [["category", *map(metric_title, names)]]
    for category, metrics in categories.items():
        rows.append([printable(category), *(format_metric(metrics.get(name)) for name in names)])
    mean = results["mean"]
    last = [format_metric(mean[name]) if name in mean else "" for name in names]
    rows.append(["mean", *last])
    rows = [[fitting(cell, encoding) for cell in row] for row in rows]  # escapes are wider
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
        for row in rows
    ]
    rule = fitting("─", encoding) * len(lines[0])
    return "\n".join(line.rstrip() for line in [lines[0], rule, *lines[1:-1], rule, lines[-1]])
