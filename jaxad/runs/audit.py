"""The audit job: every convention of measuring beside ours, from one pass over the test photos.

`results.json` stays as it is. `audit.json` has the rows of every category, and the report's page is
written again by the same pass, with a section of them.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxad.core import InputError
from jaxad.data.fingerprint import changes as changes_of
from jaxad.data.jobs import Job
from jaxad.data.manifest import Record, some
from jaxad.files import confined, write_json
from jaxad.metrics.audit import MOST_RESAMPLES, RESAMPLES, Audited, audited, paired
from jaxad.metrics.audit_table import Line
from jaxad.report.audit import audit_section
from jaxad.report.line import draw
from jaxad.report.view import CategoryView
from jaxad.runs import lock, record
from jaxad.runs.audit_photos import Taken
from jaxad.runs.calibrations import calibration_of
from jaxad.runs.evaluate import (
    calibrations_of,
    is_whole,
    lines_of,
    results_before,
    results_of,
    seconds_of,
    write_page,
)
from jaxad.runs.evaluator import Outcome
from jaxad.runs.measuring import Opened, jobs_there, nothing_trained, opened_replicates
from jaxad.runs.score_category import Scored
from jaxad.runs.workdir import opened

FILE = "audit.json"
FORMAT = 1
NO_EPOCHS = "no earlier step is kept: training's checkpoints go once a detector is finished"


def audit(
    workdir: Path,
    changes: Sequence[str] = (),
    *,
    against: Path | None = None,
    category: str | None = None,
    resamples: int = RESAMPLES,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Measure a trained work directory by every convention; write `audit.json` and the report.

    Args:
        workdir: What `jaxad train` wrote.
        changes: `--config.a.b=VALUE`, as of `evaluate`; for `against`, too.
        against: Another work directory, judged on the same photos; it is only read.
        category: The only one that is measured; None: all.
        resamples: Of the bootstrap over photos; pixel figures take 200 at most.
        check: Called before every batch and photo; may raise `errors.Stopped`.

    Returns:
        What `audit.json` holds.

    Raises:
        InputError: Whatever a user can mend; nothing is written then.
    """
    if not 0 <= resamples <= MOST_RESAMPLES:
        raise InputError(f"--resamples is {resamples}: it must lie between 0 and {MOST_RESAMPLES}")
    if category is not None:
        changes = [*changes, f"--config.data.categories={category}"]
    with lock.locked(opened(workdir), check=check):
        ours = record.read(workdir) or record.Record(workdir)
        ours.sweep()
        # Before all work: what is there may be a stranger's.
        before, page = results_before(workdir), confined(workdir, "report", "index.html")
        replicates = list(opened_replicates(workdir, changes, check=check))
        passes = [_Pass(own, workdir, resamples=resamples, check=check) for own in replicates]
        rival = None
        if against is not None:
            there = next(opened_replicates(opened(against), changes, check=check))
            _require_same_photos(replicates[0], there, against)
            rival = _Pass(there, workdir, resamples=resamples, check=check)
        outcomes = passes[0].run()
        if not outcomes or not passes[0].found:
            raise nothing_trained(workdir)
        found: dict[str, Any] = {
            "format": FORMAT,
            "resamples": resamples,
            "categories": {name: own.rows for name, own in passes[0].found.items()},
        }
        for name, rows in found["categories"].items():
            _say_what_differs(name, rows, before.get("figures", {}))
            rows.append(_best_epoch())
        for another in passes[1:]:
            another.run()
        if len(passes) > 1:
            _add_seeds(found["categories"], [own.found for own in passes])
        if rival is not None:
            rival.run()
            both = [name for name in passes[0].found if name in rival.found]
            found["against"] = {
                "workdir": str(against),
                "categories": {n: paired(passes[0].found[n], rival.found[n]) for n in both},
            }
        whole = is_whole(before, outcomes, narrowed=replicates[0].narrowed)
        outcomes[0].seconds.update(seconds_of(before))
        config = replicates[0].config
        results = results_of(outcomes, config, part=not whole)
        page = ours.file("report", "index.html" if whole else "part.html")
        write_json(ours.file(FILE), found)
        write_page(
            page,
            results,
            outcomes,
            config,
            lines=lines_of(outcomes, calibrations_of(workdir)),
            sections=[audit_section(found)],
        )
        return {**found, "page": page.name}


class _Pass:
    """One replicate's detectors, scored and audited category after category."""

    def __init__(
        self, replicate: Opened, folder: Path, *, resamples: int, check: Callable[[], None]
    ) -> None:
        self.found: dict[str, Audited] = {}
        self._replicate, self._folder = replicate, folder
        self._resamples, self._check = resamples, check
        self._taken: Taken | None = None
        self._tested: dict[str, tuple[Job, tuple[Record, ...]]] = {}

    def run(self) -> list[Outcome]:
        """Score every detector that is trained and wanted."""
        jobs = jobs_there(self._replicate)
        self._tested = {
            name: (job, records) for job in jobs for name, records in job.test.items() if records
        }
        return self._replicate.measured(jobs, lambda job: self, self._take)

    def kept(self, name: str) -> Scored | None:
        """Nothing is: the maps are wanted."""
        del name
        return None

    def _take(
        self, name: str, rows: slice, batch: Any, maps: np.ndarray, scores: np.ndarray
    ) -> None:
        if self._taken is None:
            source, (_, records) = self._replicate.source, self._tested[name]
            root = source.manifest.root
            self._taken = Taken(name, records, root, maps.shape[1:], self._folder)
        self._taken.take(rows, batch, maps, scores)

    def keep(self, name: str, scored: Scored) -> None:
        """Audit a category whose photos are all scored."""
        assert self._taken is not None
        job, records = self._tested[name]
        with self._taken as photos:
            line, why = _line(self._replicate.workdir, job.name, records[0].category, scored.view)
            self.found[name] = audited(
                photos, line=line, why_no_line=why, resamples=self._resamples, check=self._check
            )
        self._taken = None


def _line(
    workdir: Path, detector: str, category: str, view: CategoryView
) -> tuple[Line | None, str]:
    """What the threshold of a category says of its photos; where there is none, why."""
    try:
        calibration = calibration_of(workdir, detector)
        if calibration is None:
            return None, "it has no calibration: jaxad calibrate"
        calibration.limits(category)
    except InputError as error:
        return None, str(error)
    drawn = draw(view.labels, view.scores, calibration, category, taken=view.taken)
    assert drawn is not None
    sure = f", confidence {calibration.confidence:g}" if calibration.confidence else ""
    each = ", for each subclass" if drawn.by_subclass else ""
    rate = 100 * calibration.false_alarm
    return Line(drawn.called, f"conformal threshold{each}, {rate:g} % false alarms{sure}"), ""


def _require_same_photos(ours: Opened, theirs: Opened, against: Path) -> None:
    """Refuse to compare what was judged on other photos."""
    tests = [
        {name: records for job in own.every for name, records in job.test.items() if records}
        for own in (ours, theirs)
    ]
    shared = [name for name in tests[0] if name in tests[1]]
    if not shared:
        raise InputError(
            f"{against} has no category of this data, but {some(sorted(tests[1]) or ['none'])}"
        )
    prints = []
    for own in (ours, theirs):
        every = own.source.fingerprint
        kept = {
            category: {"test": splits.get("test", {})}
            for category, splits in every["categories"].items()
        }
        prints.append({**every, "categories": kept})
    wanted = sorted({tests[0][name][0].category for name in shared})
    lines = changes_of(prints[0], prints[1], categories=wanted)
    for name in shared:
        paths = [[r.path for r in test[name]] for test in tests]
        if not lines and paths[0] != paths[1]:
            lines = [f"{name} has {len(paths[0])} test photos here, {len(paths[1])} there"]
    if lines:
        raise InputError(f"{against} is judged on other photos: {lines[0]}; give the same by both")


def _say_what_differs(
    name: str, rows: Sequence[Mapping[str, Any]], before: Mapping[str, Any]
) -> None:
    """Say where a figure is not that of results.json."""
    stored = before.get(name)
    if not isinstance(stored, dict):
        return
    other = [
        f"{row['key']} is {row['value']}, not {stored[row['key']]}"
        for row in rows
        if row["key"] in stored and stored[row["key"]] != row["value"]
    ]
    if other:
        print(
            f"{name}: {'; '.join(other)}, as results.json has it: data, weights or devices have "
            "changed, run jaxad evaluate",
            file=sys.stderr,
        )


def _best_epoch() -> dict[str, Any]:
    return {
        "metric": "image AUROC",
        "convention": "best epoch, chosen on the test photos",
        "used_by": "SimpleNet, UniAD, GLASS",
        "value": None,
        "low": None,
        "high": None,
        "key": None,
        "why": NO_EPOCHS,
    }


def _add_seeds(
    categories: Mapping[str, list[dict[str, Any]]], every: Sequence[Mapping[str, Audited]]
) -> None:
    """Add "seeds" to every row: count, mean, standard deviation and best of all replicates."""
    for name, rows in categories.items():
        measured = [own[name].rows for own in every if name in own]
        for row, values in zip(rows, _values(measured)):
            if len(values) > 1 and None not in values:
                known = [float(value) for value in values if value is not None]
                row["seeds"] = {
                    "count": len(known),
                    "mean": statistics.fmean(known),
                    "sd": statistics.stdev(known),
                    "best": max(known),
                }


def _values(measured: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[list[float | None]]:
    for same in zip(*measured):
        yield [row["value"] for row in same]
