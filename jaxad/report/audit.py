"""An audit as a table for the terminal, and as a section of the report's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from markupsafe import Markup

from jaxad.errors import printable
from jaxad.report.table import fitting
from jaxad.report.terms import format_metric, metric_title

_EXACT = "*"
_WHOLE = ' style="white-space:nowrap"'
_HEAD = ("figure", "convention", "used by", "value", "95 % over photos")
_NOTE = (
    f"{_EXACT} as in results.json. Intervals: bootstrap over test photos; they say nothing of "
    "other seeds."
)


def format_audit(found: Mapping[str, Any], *, encoding: str | None = None) -> str:
    """Lay out all rows of an audit in aligned columns, category after category.

    Args:
        found: What audit.json holds.
        encoding: Of the stream that the table is printed to, see `table.fitting`.
    """
    blocks = []
    for name, rows in found["categories"].items():
        cells = [[fitting(cell, encoding) for cell in row] for row in _cells(rows)]
        widths = [max(map(len, column)) for column in zip(*cells)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in cells
        ]
        title = fitting(printable(name), encoding)
        blocks.append("\n".join([title, fitting("─", encoding) * len(title), *lines]))
    blocks += [fitting(line, encoding) for line in _against_lines(found)]
    return "\n\n".join([*blocks, _NOTE])


def audit_section(found: Mapping[str, Any]) -> tuple[str, Markup]:
    """Heading and content of the page's section: a plot and a table a category."""
    parts = [
        "<p>The same score maps under every convention that papers and codes measure by. "
        f"{escape(_NOTE)}</p>"
    ]
    for name, rows in found["categories"].items():
        shown = escape(printable(name))
        parts.append(f"<h3>{shown}</h3>{audit_svg(rows)}")
        head, *body = _cells(rows)
        header = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
        lines = "".join(
            "<tr>"
            f'<th scope="row">{escape(row[0])}</th>'
            + "".join(
                f"<td{_WHOLE if n == 2 else ''}>{escape(c)}</td>" for n, c in enumerate(row[1:])
            )
            + "</tr>"
            for row in body
        )
        table = f"<table><thead><tr>{header}</tr></thead><tbody>{lines}</tbody></table>"
        parts.append(f'<div class="wide">{table}</div>')
    parts += [f"<p>{escape(line)}</p>" for line in _against_lines(found)]
    return "Audit: one detector, every convention", Markup("".join(parts))


def audit_svg(rows: Sequence[Mapping[str, Any]]) -> str:
    """A dot a convention with its interval, over one axis; what is undefined is left out.

    The share of false alarms is left out, too: of it less is better.
    """
    known = [r for r in rows if r["value"] is not None and r["metric"] != "false alarms"]
    shown = _by_metric(known)
    if not shown:
        return '<p class="note">Nothing could be measured.</p>'
    least = min(row["value"] if row["low"] is None else row["low"] for row in shown)
    low = max(0.0, (least * 20 // 1) / 20 if least < 0.95 else 0.95)
    left, right, step, top = 350, 690, 16, 10
    body, y = [], top

    def x(value: float) -> float:
        return left + (right - left) * (min(max(value, low), 1) - low) / (1 - low)

    for metric, group in groupby(shown, key=lambda row: row["metric"]):
        y += step
        body.append(_text(0, y + 4, metric, "figure"))
        for row in group:
            y += step
            name = row["convention"] + (_EXACT if row["key"] else "")
            body.append(_text(8, y + 4, name, "tick"))
            if row["low"] is not None:
                ends = f'x1="{x(row["low"]):.1f}" x2="{x(row["high"]):.1f}" y1="{y}" y2="{y}"'
                body.append(f'<line class="axis" {ends}/>')
            told = escape(f"{metric}, {row['convention']}: {_value(row)} {_interval(row)}")
            body.append(
                f'<rect class="{"bad" if row["key"] else "good"}" x="{x(row["value"]) - 3.5:.1f}" '
                f'y="{y - 3.5}" width="7" height="7" rx="3.5"><title>{told}</title></rect>'
            )
    bottom = y + step
    for share in (0, 0.5, 1):
        value = low + share * (1 - low)
        line = f'x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{top}" y2="{bottom}"'
        body.insert(0, f'<line class="grid" {line}/>')
        body.append(_text(x(value), bottom + 14, f"{value:.3g}", "tick", "middle"))
    label = f"{len(shown)} figures of one detector, from {least:.4f} up"
    return (
        f'<svg viewBox="0 0 {right + 20} {bottom + 22}" style="max-width:48rem" role="img" '
        f'aria-label="{label}"><title>{label}</title>{"".join(body)}</svg>'
    )


def _cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    seeds = any("seeds" in row for row in rows)
    cells = [[*_HEAD, *(["mean ± sd of seeds", "best seed"] if seeds else [])]]
    before = ""
    for row in _by_metric(rows):
        metric = row["metric"]
        own = [metric if metric != before else "", row["convention"], row["used_by"]]
        own += [_value(row) + (_EXACT if row["key"] else ""), _interval(row)]
        if seeds:
            told = row.get("seeds")
            spread = f"{told['mean']:.4f} ± {told['sd']:.4f}, {told['count']}" if told else ""
            own += [spread, f"{told['best']:.4f}" if told else ""]
        cells.append(own)
        before = metric
    return cells


def _by_metric(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    order = list(dict.fromkeys(row["metric"] for row in rows))
    return sorted(rows, key=lambda row: order.index(row["metric"]))


def _value(row: Mapping[str, Any]) -> str:
    return format_metric(row["value"])


def _interval(row: Mapping[str, Any]) -> str:
    """The interval, or why there is no value."""
    if row["value"] is None:
        return str(row["why"])
    return "" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"


def _against_lines(found: Mapping[str, Any]) -> list[str]:
    """What the comparison of two work directories says, a line a figure."""
    if "against" not in found:
        return []
    other, lines = printable(found["against"]["workdir"]), []
    for name, rows in found["against"]["categories"].items():
        for row in rows:
            start = f"{printable(name)}, {metric_title(row['metric'])} less that of {other}: "
            if row["value"] is None:
                lines.append(f"{start}undefined")
            elif row["low"] is None:
                lines.append(f"{start}{row['value']:+.4f}; too few photos for an interval")
            else:
                lines.append(
                    f"{start}{row['value']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f}); not "
                    f"better in {100 * row['share']:.1f} % of resamples"
                )
    return lines


def _text(x: float, y: float, text: str, name: str, anchor: str = "start") -> str:
    return (
        f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )
