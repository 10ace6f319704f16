"""The metric table as plain text, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxad.report.terms import format_metric, metric_names, metric_title, printable


def format_table(results: Mapping[str, Any]) -> str:
    """Lay out the metrics of every category and their mean in aligned columns.

    Args:
        results: what results.json holds; only "categories" and "mean" are read.

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
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
        for row in rows
    ]
    rule = "─" * len(lines[0])
    return "\n".join(line.rstrip() for line in [lines[0], rule, *lines[1:-1], rule, lines[-1]])
