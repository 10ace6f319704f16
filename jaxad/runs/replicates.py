"""The same run under several seeds: where its parts are, and mean and spread of its metrics."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxad.files import confined, write_json
from jaxad.metrics.summary import mean_metrics

FOLDER = "replicates"
"""In a work directory: further replicates as work directories of their own, `1`, `2`, ..."""


def folders(workdir: Path) -> list[Path]:
    """The work directories of all replicates that are there, the first being `workdir` itself."""
    folder = confined(workdir, FOLDER)
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    further = [confined(workdir, FOLDER, name) for name in names]
    return [workdir, *(path for path in further if (path / "config.json").is_file())]


def each_replicate(workdir: Path, config: ConfigDict) -> list[tuple[Path, ConfigDict]]:
    """Name every replicate's work directory and its configuration: the seed counts up."""
    runs = [(workdir, config)]
    for r in range(1, config.train.replicates):
        own = config.copy_and_resolve_references()
        own.train.seed, own.train.replicates = config.train.seed + r, 1
        runs.append((workdir / FOLDER / str(r), own))
    return runs


def spread(values: Sequence[float | None]) -> dict[str, float] | None:
    """Mean and standard deviation (n - 1 in its denominator); None where one is undefined."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    sd = statistics.stdev(known) if len(known) > 1 else 0.0
    return {"mean": statistics.fmean(known), "sd": sd}


def summarise(every: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put the results of several replicates together.

    Args:
        every: Their `results.json`.

    Returns:
        "count"; "mean", the spread of each mean metric; and "categories", of each one's metrics:
        over the categories that all have, where one was interrupted.
    """

    def over(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {name: spread([metrics[name] for metrics in each]) for name in each[0]}

    names = [name for name in every[0]["categories"] if all(name in r["categories"] for r in every)]
    shared = [{name: r["categories"][name] for name in names} for r in every]
    return {
        "count": len(every),
        "mean": over([mean_metrics(categories) for categories in shared]),
        "categories": {name: over([r[name] for r in shared]) for name in names},
    }


def add_summary(workdir: Path, every: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add the summary to the first replicate's results, if there are several; return them."""
    results = every[0]
    if len(every) > 1:
        results["replicates"] = summarise(every)
        write_json(confined(workdir, "results.json"), results)
    return results
