"""The page of a prediction job: which photos it shows, and where their overlays lie."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from jaxad.data.sources import Sources
from jaxad.files import write_text
from jaxad.report.judged import Shown, judged_page
from jaxad.runs.drawings import name_of
from jaxad.runs.models import Judge
from jaxad.runs.record import Record
from jaxad.runs.shards import OVERLAYS, Shards

FILE = "index.html"
RARE = 0.1
"""P-values up to here are counted: where too few calibrate, the line may pass what they tell."""
MOST = 300
"""Photos of a page, those of the highest scores; and reasons why photos could not be read."""
_COLUMNS = ("path", "score", "decision", "threshold", "p_value", "error")


def write_page(
    ours: Record, table: Shards, sources: Sources, judge: Judge, summary: Mapping[str, Any]
) -> None:
    """Show the photos of the highest scores; memory does not grow with their number.

    Args:
        ours: The record of the folder of results.
        table: What was found of the photos.
        sources: The photos, in the order of the table.
        judge: Who judged.
        summary: As `predict` has it.

    Raises:
        InputError: The page can not be written.
    """
    highest = heapq.nlargest(MOST, _judged(table, sources), key=lambda one: one.score)
    failed = (row for row in _rows(table) if row["error"])
    errors = [f"{row['path']}: {row['error']}" for row in itertools.islice(failed, MOST)]
    lines = [
        f"{summary['good']} good, {summary['anomalous']} anomalous, {summary['errors']} that could "
        f"not be read; of normal parts at most {100 * judge.false_alarm:g} % are called anomalous."
    ]
    lines += rare(summary)
    if summary["drift"] is not None:
        lines.append(summary["drift"]["all"]["text"])
    page = judged_page(
        f"{judge.category or 'Photos'}: {summary['photos']} judged",
        f"model {judge.id}",
        lines,
        highest,
        errors,
        total=summary["photos"] - summary["errors"],
        unreadable=summary["errors"],
    )
    write_text(ours.file(FILE), page)


FEW = 10
"""With fewer photos a count of small p-values says nothing."""


def rare(summary: Mapping[str, Any]) -> list[str]:
    """Say how many p-values are small, and how many of so many good parts would be; or nothing."""
    judged = summary["photos"] - summary["errors"]
    if judged < FEW or "rare" not in summary:  # as where an earlier jaxad has ended the job
        return []
    return [
        f"{summary['rare']} of {judged} photos have a p-value of at most {RARE}; if all were good, "
        f"it would be about {RARE * judged:.0f}"
    ]


def _rows(table: Shards) -> Iterator[dict[str, Any]]:
    for columns in table.columns(*_COLUMNS):
        for values in zip(*(columns[name] for name in _COLUMNS)):
            yield dict(zip(_COLUMNS, values))


def _judged(table: Shards, sources: Sources) -> Iterator[Shown]:
    for row, photo in zip(_rows(table), sources):
        if row["score"] is not None:
            name = name_of(photo, unique=sources.is_one_folder)
            kept = (row[key] for key in ("decision", "score", "threshold", "p_value"))
            yield Shown(row["path"], f"{OVERLAYS}/{name}.jpg", *kept)
