"""The training job: a data set and a configuration to a work directory with a trained detector."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from jaxad.config import check_config, flat, save_config
from jaxad.core import InputError
from jaxad.data.jobs import Job
from jaxad.detector import Cost
from jaxad.parallel import DataParallel, data_parallel
from jaxad.recipes.build import build_backbones, learns_subclasses, models
from jaxad.recipes.recipe import Backbones, Model, Phase
from jaxad.runs import checkpoint, record, track
from jaxad.runs.dataset import (
    DATA,
    jobs_of,
    prepared_folder,
    read_dataset,
    reading_of,
    save_trained_on,
    say_left_out,
    trained_on,
)
from jaxad.runs.decode_once import FOLDER as DECODED
from jaxad.runs.decode_once import decoded_once, reads_of
from jaxad.runs.evaluate import Evaluator, Outcome, write_results
from jaxad.runs.programs import counted_programs
from jaxad.runs.replicates import add_summary, each_replicate
from jaxad.runs.workdir import CHECKPOINTS, SUBCLASSES, save_subclasses
from jaxad.training import sampling
from jaxad.training.fit import Budget, Trainer
from jaxad.training.profiling import Profile
from jaxad.training.subclasses import labelled

PROFILE, TRACK = "profile", "track"
"""In a work directory: what `train.profile` traced, and what `track` keeps there."""


class Replicate:
    """One work directory of a run: what is written there, and what was measured so far."""

    def __init__(
        self,
        config: Any,
        claimed: record.Record,
        backbones: Backbones,
        also: Callable[[dict[str, Any]], None] = lambda line: None,
    ) -> None:
        """Write the configuration, open the log, whose lines go to `also`, too."""
        self.config, self.backbones = config, backbones
        self.seed = config.train.seed
        self._claimed, self._also = claimed, also
        self._outcomes: list[Outcome] = []
        self.results: dict[str, Any] = {}
        self._subclasses: dict[str, tuple[str, ...]] = {}
        self._log = claimed.file("train.jsonl").open("x", buffering=1, encoding="utf-8")
        save_config(claimed.file("config.json"), config, weights=backbones.sha256)

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def log(self, **values: Any) -> None:
        """Add a line to `train.jsonl`.

        Raises:
            InputError: It can not be written.
        """
        try:
            self._log.write(json.dumps(values) + "\n")
        except OSError as error:
            raise InputError(
                f"can not write {self._log.name} ({error.strerror}): make room on its disk, or "
                "choose another --workdir"
            ) from error
        self._also(values)

    def save(self, name: str, variables: Any, subclasses: tuple[str, ...]) -> None:
        """Keep a trained detector."""
        if subclasses != ("",):
            self._subclasses[name] = subclasses
            save_subclasses(self._claimed.file(SUBCLASSES), self._subclasses)
        checkpoint.save(self._claimed.tree(CHECKPOINTS, name), variables)

    def add(self, outcome: Outcome) -> None:
        """Write results and report anew: what is done is on disk, whatever happens to the next."""
        self._outcomes.append(outcome)
        self.results = write_results(
            self._outcomes,
            self.config,
            results=self._claimed.file("results.json"),
            report=self._claimed.file("report", "index.html"),
        )


def train(config: Any, workdir: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Train and evaluate a detector for every category (or one for all); write the work directory.

    Same configuration, data, weights and devices give the same detector and metrics.

    Args:
        config: See docs/configuration.md.
        workdir: Made if needed; gets `config.json`, `train.jsonl`, `checkpoints/`, `results.json`
            and `report/index.html`, and where asked for `profile/` and `track/`; further
            `train.replicates` are work directories below `replicates/`, and `results.json` has mean
            and standard deviation of all.
        overwrite: Replace an earlier run in `workdir` instead of refusing.

    Returns:
        The content of `results.json`.

    Raises:
        InputError: Whatever a user can mend, found before anything is written where possible.
    """
    with counted_programs() as programs:
        results = _train(config, workdir, overwrite=overwrite)
    print(programs, file=sys.stderr)
    return results


def _train(config: Any, workdir: Path, *, overwrite: bool) -> dict[str, Any]:
    check_config(config)
    track.check(config.track)
    parallel = data_parallel(config.train.parallel)
    manifest = read_dataset(config)
    backbones = build_backbones(config)
    reading = reading_of(config, backbones)
    todo = jobs_of(manifest, config)
    # Complains before the work directory is touched.
    names = expected_subclasses(todo[0], config)
    model = models(config, backbones, axis_name=parallel.axis_name)
    detector, phases = model(len(names))
    cost = detector.cost(backbones.variables, size=reading.size)
    capacity = max(len(job.train) for job in todo)
    shared = trainer_of(config, backbones, parallel, capacity=capacity, model=model)
    cached = shared.place != "off"
    # Random networks are drawn by the seed: those of another replicate are others.
    drawn = config.method.get("random_weights", False)
    reads = reads_of(
        train=sum(len(job.train) for job in todo),
        test=sum(len(records) for job in todo for records in job.test.values()),
        seen=None
        if cached
        else sum(images_seen(phases, len(job.train), shared.budget) for job in todo),
        replicates=config.train.replicates,
        networks=config.train.replicates if drawn else 1,
    )
    runs = each_replicate(workdir, config)
    fixed = ["config.json", "train.jsonl", "results.json", DATA, SUBCLASSES, "report/index.html"]
    fixed += [f"{CHECKPOINTS}/{job.name}" for job in todo]
    inner = [to.relative_to(workdir) for to, _ in runs[1:]]
    wanted = [*fixed, DECODED, *(f"{to.as_posix()}/{name}" for to in inner for name in fixed)]
    wanted += [
        name for name, key in ((PROFILE, config.train.profile), (TRACK, config.track)) if key
    ]
    claimed = record.claim(workdir, wanted, overwrite=overwrite)
    say_left_out(manifest, config.data.layout)
    print(describe(cost, config, names), file=sys.stderr)
    data = trained_on(manifest)
    with ExitStack() as stack:
        tracker = None
        if config.track:
            tracker = track.open_tracker(
                config.track,
                lambda: claimed.tree(TRACK),
                title=workdir.absolute().name,
                config=flat(config),
            )
            stack.callback(tracker.close)
        replicates = []
        for to, own in runs:
            records = claimed
            if to != workdir:
                within = claimed.within(*to.relative_to(workdir).parts)
                records = record.claim(within, fixed, overwrite=overwrite)
            networks = build_backbones(own) if drawn and to != workdir else backbones
            save_trained_on(records.file(DATA), data)
            also = {} if tracker is None else {"also": tracked(tracker, to.relative_to(workdir))}
            replicates.append(Replicate(own, records, networks, **also))
            stack.callback(replicates[-1].close)
            replicates[-1].log(cost=cost._asdict())
        start = time.monotonic()
        manifest = stack.enter_context(
            decoded_once(
                manifest,
                reading,
                prepared_folder(config) or config.data.prepared,
                lambda: claimed.tree(DECODED),
                reads=reads,
            )
        )
        waited = time.monotonic() - start

        trainers = [
            shared
            if r.backbones is backbones
            else trainer_of(r.config, r.backbones, parallel, capacity=capacity)
            for r in replicates
        ]
        evaluator = Evaluator(
            [job for job in todo for _ in replicates],
            reading,
            parallel,
            batch_size=config.score.batch_size,
            examples=config.report.examples,
        )
        profile = None
        if config.train.profile:
            profile = Profile(lambda: claimed.tree(PROFILE), *config.train.profile)
        for job in jobs_of(manifest, config):
            cache: Any = None
            for trainer, replicate in zip(trainers, replicates):

                def log(of: Replicate = replicate, job_name: str = job.name, **values: Any) -> None:
                    of.log(detector=job_name, **values)

                fit = trainer.fit(
                    job, manifest.root, log, seed=replicate.seed, cache=cache, profile=profile
                )
                profile = None  # of the first detector alone
                # For the next replicate; after the last one scoring may have its memory.
                cache = None if drawn or replicate is replicates[-1] else fit.cache
                fit = fit._replace(cache=None)
                replicate.save(job.name, fit.variables, fit.subclasses)
                variables = {"backbones": replicate.backbones.variables, "method": fit.variables}
                found = evaluator.evaluate(
                    job, manifest.root, fit.model, variables, n_train=data.n_train
                )
                found.seconds.update(fit.seconds)
                found.seconds["features"] += waited
                waited = 0.0
                replicate.add(found)
    return add_summary(workdir, [replicate.results for replicate in replicates])


def tracked(tracker: track.Tracker, within: Path) -> Callable[[dict[str, Any]], None]:
    """What sends the lines of a replicate to a tracker; `within` is where its folder is."""
    prefix = "/".join(within.parts)
    return lambda line: tracker.line(line, prefix=prefix)


def trainer_of(
    config: Any,
    backbones: Backbones,
    parallel: DataParallel,
    *,
    capacity: int,
    model: Callable[[int], Model] | None = None,
) -> Trainer:
    """Make the trainer of a configuration's detectors, for up to `capacity` training images."""
    return Trainer(
        backbones,
        model or models(config, backbones, axis_name=parallel.axis_name),
        budget_of(config, parallel),
        reading_of(config, backbones),
        parallel,
        capacity=capacity,
    )


def budget_of(config: Any, parallel: DataParallel) -> Budget:
    """How a configuration has a detector trained."""
    t = config.train
    return Budget(
        epochs=t.epochs,
        batch_size=t.batch_size,
        balanced=t.sampling == "balanced",
        holdout=t.holdout,
        feature_cache=t.feature_cache,
        cache_dtype=t.cache_dtype,
        log_every=t.log_every,
        parts=t.accumulate,
        dtype=t.dtype,
        score_batch=sampling.batch_elements(config.score.batch_size, 1, parallel.device_count),
        clusters=config.method.get("clusters", 0) if learns_subclasses(config) else None,
    )


def images_seen(phases: Sequence[Phase], images: int, budget: Budget) -> int:
    """Photos that the steps of a detector's training read, about: subclasses may round it up."""
    groups = [[np.arange(images)]]
    steps = sum(
        sampling.steps_of(phase.steps, groups, epochs=budget.epochs, batch=budget.batch_size)
        for phase in phases
    )
    return steps * budget.batch_size


def expected_subclasses(job: Job, config: Any) -> Sequence[str]:
    """The subclasses that a detector will learn, as far as is known before features are."""
    if not learns_subclasses(config):
        return ()
    clusters = config.method.get("clusters", 0)
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
