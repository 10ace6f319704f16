"""An audit in the terminal and on the page: rows by metric, hostile names as text."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from jaxad.report.audit import audit_section, audit_svg, format_audit


def row(metric: str, value: float | None, **more: Any) -> dict[str, Any]:
    bare = {"metric": metric, "convention": f"way of {metric}", "used_by": "us", "value": value}
    return {**bare, "low": None, "high": None, "key": None, "why": "", **more}


ROWS = [
    row("image AUROC", 0.9, low=0.8, high=0.95, key="image_auroc"),
    row("AUPRO@0.30", None, why="needs <masks>"),
    row("image AUROC", 0.7, convention="another"),
    row("false alarms", 0.1),
]
NAME = "<img src=x onerror=alert(1)>\x1b[31m"


def test_rows_of_a_metric_stand_together_and_say_what_lacks() -> None:
    against = row("image_auroc", 0.1, low=-0.1, high=0.3, share=0.25)
    found = {"categories": {"a": ROWS}, "against": {"workdir": "w", "categories": {"a": [against]}}}
    text = format_audit(found)
    lines = text.splitlines()
    assert lines[3].split() == [
        "image",
        "AUROC",
        "way",
        "of",
        "image",
        "AUROC",
        "us",
        "0.9000*",
        "0.8000",
        "to",
        "0.9500",
    ]
    assert lines[4].split() == ["another", "us", "0.7000"]
    assert lines[5].endswith("needs <masks>")
    assert "a, image AUROC less that of w: +0.1000 (-0.1000 to +0.3000)" in text
    assert "25.0 % of resamples" in text
    assert format_audit(found, encoding="ascii").isascii()


def test_names_are_text_and_the_plot_is_well_formed() -> None:
    heading, content = audit_section({"categories": {NAME: ROWS}})
    assert "Audit" in heading
    assert "<img" not in content
    assert "\x1b" not in content
    assert "needs &lt;masks&gt;" in content
    svg = ElementTree.fromstring(audit_svg(ROWS))
    assert len(svg.findall("rect")) == 2  # false alarms and what is undefined are left out
    assert "Nothing could be measured" in audit_svg([ROWS[1]])
