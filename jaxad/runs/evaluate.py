"""The evaluation job: score every test image, measure, write `results.json` and the report."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from types import MappingProxyType
from typing import Any

import jax
from markupsafe import Markup

import jaxad
from jaxad.calibration import Calibration
from jaxad.config import flat
from jaxad.core import InputError
from jaxad.data.jobs import Job
from jaxad.files import confined, read_json, write_json
from jaxad.metrics.summary import mean_metrics
from jaxad.report.html import write_report
from jaxad.report.line import Line, draw
from jaxad.runs import lock, record
from jaxad.runs.calibrations import FILE as CALIBRATION
from jaxad.runs.calibrations import read_calibrations
from jaxad.runs.evaluator import Outcome
from jaxad.runs.measuring import Opened, jobs_there, nothing_trained, opened_replicates
from jaxad.runs.outcomes import Kept, Outcomes, forget, is_under_way, measured_by, missing
from jaxad.runs.published import beside
from jaxad.runs.replicates import add_summary, folders
from jaxad.runs.workdir import CHECKPOINTS, opened

PART = "results.part.json"
"""Results of some of the detectors."""
MAX_SECONDS = 1e9
"""What is longer stands in a damaged file."""


def write_results(
    outcomes: Sequence[Outcome],
    config: Any,
    *,
    results: Path,
    report: Path,
    part: bool = False,
    missing_yet: Sequence[str] = (),
    calibrations: Mapping[str, Calibration] = MappingProxyType({}),
) -> dict[str, Any]:
    """Write results and report from all outcomes so far; return the results.

    `part` marks results of some of the detectors only; `missing_yet` are categories to come;
    `calibrations` are those that there are, by detector.
    """
    found = results_of(outcomes, config, part=part, missing_yet=missing_yet)
    lines = lines_of(outcomes, calibrations)
    found["decisions"] = {
        name: told for name, line in lines.items() if (told := _decision(line)) is not None
    }
    for name, line in lines.items():  # photos may have been added and left out since training
        if line is not None and line.calibrated is not None:
            (normal,) = line.calibrated.lines.limits.normal
            counted = {"n_calibration": len(normal.scores)}
            found["categories"][name] = found["categories"][name] | counted
    write_json(results, found)
    write_page(report, found, outcomes, config, lines=lines)
    return found


def results_of(
    outcomes: Sequence[Outcome],
    config: Any,
    *,
    part: bool = False,
    missing_yet: Sequence[str] = (),
) -> dict[str, Any]:
    """Put together what results.json holds; see `write_results`."""
    categories = {name: metrics for o in outcomes for name, metrics in o.metrics.items()}
    images, seconds = (sum(outcome.steady[i] for outcome in outcomes) for i in (0, 1))
    return {
        **({"part": True} if part else {}),
        **({"missing": list(missing_yet)} if missing_yet else {}),
        "method": config.method.name,
        "dataset": config.data.layout,
        "categories": categories,
        "mean": mean_metrics(categories),
        "seconds": {
            key: round(sum(o.seconds[key] for o in outcomes), 3)
            for key in ("features", "train", "score")
        },
        "images_per_second": round(images / seconds, 2) if seconds else None,
        "environment": environment(config),
    }


def lines_of(
    outcomes: Sequence[Outcome], calibrations: Mapping[str, Calibration]
) -> dict[str, Line | None]:
    """Where the line of every category is drawn, for results, page and audit alike."""
    return {
        name: draw(
            view.labels,
            view.scores,
            calibrations.get(o.detector),
            o.sources[name],
            taken=view.taken,
        )
        for o in outcomes
        for name, view in o.views.items()
    }


def _decision(line: Line | None) -> dict[str, Any] | None:
    """How test photos fall on the two sides of a calibrated line."""
    if line is None or line.calibrated is None:
        return None
    own = line.calibrated
    by_name = {name: limits.score for name, limits in line.by_subclass.items()}
    return {
        "false_alarm": own.false_alarm,
        "threshold": own.lines.limits.score,
        **({"thresholds": by_name} if by_name else {}),
        **line.counts._asdict(),
    }


def write_page(
    report: Path,
    results: Mapping[str, Any],
    outcomes: Sequence[Outcome],
    config: Any,
    *,
    lines: Mapping[str, Line | None],
    sections: Sequence[tuple[str, Markup]] = (),
) -> None:
    """Write the report; see `write_results`, and `write_report` for lines and sections."""
    views = {name: view for o in outcomes for name, view in o.views.items()}
    what = next(iter(views)) if len(views) == 1 else config.data.layout
    given = flat(config.to_dict())
    write_report(
        report,
        title=f"{config.method.name} on {what}",
        results=results,
        categories=views,
        config_text="\n".join(
            f"--config.{key}={quote(str(value))}" for key, value in given.items()
        ),
        lines=lines,
        beside=beside(config),
        sections=sections,
    )


def environment(config: Any) -> dict[str, Any]:
    """What a figure depends on beside the code."""
    return {
        "jaxad": jaxad.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": jax.local_devices()[0].device_kind,
        "devices": jax.local_device_count(),
        "cores": os.cpu_count(),
        "parallel": config.train.parallel,
        "runtime": config.score.runtime,
    }


def evaluate(
    workdir: Path, changes: Sequence[str] = (), *, check: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Score and measure a trained work directory again; rewrite its results and report.

    Detectors that are not there (yet) are named and left out, and so are categories that came after
    training. Where fewer are measured than `results.json` has, the new results are written beside
    it, as `results.part.json`. What a run that was stopped has measured is not scored again.

    Args:
        workdir: What `jaxad train` wrote.
        changes: `--config.a.b=VALUE` for keys of `own_keys.EVALUATION`, such as where the data is.
        check: Called before every batch; may raise `errors.Stopped`.

    Returns:
        The results that were written.

    Raises:
        InputError: Whatever a user can mend.
    """
    with lock.locked(opened(workdir), check=check):
        return _evaluate_all(workdir, changes, check)


def _evaluate_all(
    workdir: Path, changes: Sequence[str], check: Callable[[], None]
) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    for replicate in opened_replicates(workdir, changes, check=check):
        found += _evaluate(replicate)
    if not found:
        raise nothing_trained(workdir)
    part = any(results.get("part") for results in found)
    results = found[0] if part else add_summary(workdir, found)
    for folder in folders(workdir):
        ours = record.read(folder)
        if ours is not None and not is_under_way(ours):
            forget(ours)
    return results


def _evaluate(replicate: Opened) -> list[dict[str, Any]]:
    """Evaluate one replicate's detectors: its results, none without a detector."""
    workdir, config, source = replicate.workdir, replicate.config, replicate.source
    every, jobs = replicate.every, jobs_there(replicate)
    if not jobs:
        return []
    # Before all work: what is there may be a stranger's.
    before = results_before(workdir)
    confined(workdir, "report", "index.html")
    ours = record.read(workdir) or record.Record(workdir)
    ours.sweep()

    def kept(job: Job) -> Kept:
        key = measured_by(
            config, source.backbones.sha256, source.fingerprint, workdir / CHECKPOINTS / job.name
        )
        return Outcomes(ours, key)

    outcomes = replicate.measured(jobs, kept, also=lambda *batch: None)
    outcomes[0].seconds.update(seconds_of(before))
    whole = is_whole(before, outcomes, narrowed=replicate.narrowed)
    wanted = [name for job in every for name, records in job.test.items() if records]
    results = write_results(
        outcomes,
        config,
        results=ours.file("results.json" if whole else PART),
        report=ours.file("report", "index.html" if whole else "part.html"),
        part=not whole,
        missing_yet=missing(wanted, outcomes) if whole else (),
        calibrations=calibrations_of(workdir),
    )
    return [results]


def calibrations_of(workdir: Path) -> dict[str, Calibration]:
    """Those that there are; results and report do without."""
    if not confined(workdir, CALIBRATION).is_file():
        return {}
    try:
        return read_calibrations(workdir)
    except InputError as error:
        print(f"{error}; the report does without it", file=sys.stderr)
        return {}


def is_whole(before: Mapping[str, Any], outcomes: Sequence[Outcome], *, narrowed: bool) -> bool:
    """Whether all is measured that the results have (none: that is there)."""
    measured = {name for outcome in outcomes for name in outcome.metrics}
    return set(before["categories"]) <= measured if before else not narrowed


def seconds_of(before: Mapping[str, Any]) -> dict[str, float]:
    """What features and training took, as the results say."""
    seconds = before.get("seconds", {})
    return {key: seconds[key] for key in ("features", "train") if key in seconds}


def results_before(workdir: Path) -> dict[str, Any]:
    """The results that are there, as far as they are in order: times, names, and their figures."""
    path = confined(workdir, "results.json")
    try:
        found = read_json(path, "results") if path.is_file() else {}
    except InputError as error:
        print(f"{error}; now written anew", file=sys.stderr)
        return {}
    seconds, categories = (
        found.get(key) if isinstance(found, dict) else None for key in ("seconds", "categories")
    )
    if not isinstance(categories, dict):
        return {}
    times = seconds.items() if isinstance(seconds, dict) else ()
    known = {k: v for k, v in times if type(v) in (int, float) and 0 <= v < MAX_SECONDS}
    return {"seconds": known, "categories": list(categories), "figures": categories}
