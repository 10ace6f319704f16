"""The training job: a data set and a configuration to a work directory with a trained detector."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jaxad.runs import checkpoint
from jaxad.recipes.build import build_backbones, build_method, learns_subclasses
from jaxad.config import save_config
from jaxad.core import InputError
from jaxad.detector import Cost, Detector
from jaxad.runs.evaluate import (
    Job,
    Outcome,
    check_config,
    evaluate_job,
    jobs,
    read_dataset,
    write_results,
)
from jaxad.training.fit import fit_detector
from jaxad.training.subclasses import labelled
from jaxad.parallel import data_parallel
from jaxad.runs.decode_once import FOLDER as PREPARED
from jaxad.runs.decode_once import readable, reads_of
from jaxad.runs.replicates import FOLDER as REPLICATES
from jaxad.runs.replicates import add_summary, plan
from jaxad.runs.workdir import SUBCLASSES, save_subclasses


def train(config: Any, workdir: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Train and evaluate a detector for every category (or one for all); write the work directory.

    Same configuration, data, weights and devices give the same detector and metrics.

    Args:
        config: See `jaxad.config`.
        workdir: Made if needed; gets `config.json`, `train.jsonl`, `checkpoints/`, `results.json`
            and `report/index.html`; further `train.replicates` are work directories below
            `replicates/`, and `results.json` has mean and standard deviation of all.
        overwrite: Replace an earlier run in `workdir` instead of refusing.

    Returns:
        The content of `results.json`.

    Raises:
        InputError: Whatever a user can mend, found before anything is written where possible.
    """
    parallel = data_parallel(config.train.parallel)
    check_config(config, parallel)
    manifest = read_dataset(config)
    backbones = build_backbones(config)
    todo = jobs(manifest, config)
    # Complains before the work directory is touched.
    names = expected_subclasses(todo[0], config)
    method, phases = build_method(config, backbones.networks, subclasses=names)
    detector, size = Detector(backbones.networks, method), tuple(config.data.image_size)
    cost = detector.cost(backbones.variables, size=size)
    shapes = detector.feature_shapes(backbones.variables, size=size)
    reads = reads_of(todo, phases, shapes, config)
    if any((workdir / "checkpoints").glob("*")) and not overwrite:
        raise InputError(f"{workdir} holds a run: choose another --workdir or add --overwrite")
    clear(workdir)
    runs = plan(workdir, config)
    # Random networks are drawn by the seed: those of another replicate are others.
    drawn = config.method.random_weights
    each = [backbones, *(build_backbones(own) if drawn else backbones for _, own in runs[1:])]
    for networks, (to, own) in zip(each, runs):
        to.mkdir(parents=True, exist_ok=True)
        save_config(to / "config.json", own, weights=networks.sha256)

    print(describe(cost, config, names), file=sys.stderr)
    outcomes: list[list[Outcome]] = [[] for _ in runs]
    with ExitStack() as stack:
        logs = [stack.enter_context((to / "train.jsonl").open("w", buffering=1)) for to, _ in runs]
        for file in logs:
            file.write(json.dumps({"cost": cost._asdict()}) + "\n")
        start = time.monotonic()
        manifest = stack.enter_context(readable(manifest, config, workdir, reads=reads))
        waited = time.monotonic() - start
        for job in jobs(manifest, config):
            cache: Any = None
            for file, done, networks, (to, own) in zip(logs, outcomes, each, runs):

                def log(file: Any = file, job_name: str = job.name, **values: Any) -> None:
                    file.write(json.dumps({"detector": job_name, **values}) + "\n")

                detector, fit = fit_detector(
                    job, manifest.root, networks, own, parallel, log, cache=cache
                )
                # For the next replicate; after the last one scoring may have its memory.
                kept = None if drawn or own is runs[-1][1] else fit.cache
                cache, fit = kept, fit._replace(cache=None)
                if fit.subclasses != ("",):
                    save_subclasses(to, job.name, fit.subclasses)
                checkpoint.save(to / "checkpoints" / job.name, fit.variables["method"])
                found = evaluate_job(job, manifest.root, detector, fit.variables, own, parallel)
                found.seconds.update(fit.seconds)
                found.seconds["features"] += waited
                waited = 0.0
                done.append(found)
                # After every detector: what is done is on disk, whatever happens to the next.
                write_results(done, own, to)
    return add_summary(workdir)


def expected_subclasses(job: Job, config: Any) -> Sequence[str]:
    """The subclasses that a detector will learn, as far as is known before features are."""
    if not learns_subclasses(config):
        return ()
    clusters = config.method.clusters
    known = None if clusters else labelled(job.train)
    return known.names if known else [f"cluster{k}" for k in range(clusters or 2)]


def describe(cost: Cost, config: Any, subclasses: Sequence[str] = ()) -> str:
    """Say in one line what a detector holds and computes."""
    height, width = config.data.image_size
    gflop = "unknown" if cost.gflop is None else f"{cost.gflop:.2f}"
    experts = f" ({len(subclasses)} experts: {', '.join(subclasses)})" if subclasses else ""
    return (
        f"{config.method.name}{experts}: {cost.trained / 1e6:.2f} M parameters to train, "
        f"{cost.frozen / 1e6:.2f} M frozen; {gflop} GFLOP to score an image of {height} x {width}"
    )


def clear(workdir: Path) -> None:
    """Make the folder, without what an earlier run wrote there: never a mixture of two.

    Anything else in it stays.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    for name in ("checkpoints", "report", REPLICATES, PREPARED):
        shutil.rmtree(workdir / name, ignore_errors=True)
    for name in ("config.json", "train.jsonl", "results.json", SUBCLASSES):
        (workdir / name).unlink(missing_ok=True)
