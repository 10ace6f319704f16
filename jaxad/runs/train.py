"""The training job: a data set and a configuration to a work directory with a trained detector."""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from jaxad.config import check_config
from jaxad.data.fingerprint import DIGITS
from jaxad.data.jobs import Job
from jaxad.detector import Cost
from jaxad.parallel import DataParallel, data_parallel
from jaxad.recipes.build import build_backbones, learns_subclasses, models, network_keys
from jaxad.recipes.recipe import Backbones, Model, Phase
from jaxad.runs import lock, record, resume, track
from jaxad.runs.calibrations import FILE as CALIBRATION
from jaxad.runs.dataset import (
    DATA,
    TrainedOn,
    count,
    jobs_of,
    named,
    prepared_folder,
    read_photos,
    reading_of,
    say_left_out,
    say_splits,
    say_too_few,
    trained_on,
)
from jaxad.runs.decode_once import FOLDER as DECODED
from jaxad.runs.decode_once import decoded_once, reads_of
from jaxad.runs.evaluator import Evaluator
from jaxad.runs.processes import Agreed, Words, watched
from jaxad.runs.programs import counted_programs
from jaxad.runs.replicate import Replicate
from jaxad.runs.replicates import add_summary, each_replicate
from jaxad.runs.together import TogetherReplicate
from jaxad.runs.workdir import CHECKPOINTS, SUBCLASSES
from jaxad.training import sampling
from jaxad.training.course import Budget
from jaxad.training.fit import Fit, Trainer
from jaxad.training.profiling import Profile
from jaxad.training.subclasses import labelled

PROFILE = "profile"
"""In a work directory: what `train.profile` traced."""


def train(
    config: Any,
    workdir: Path,
    *,
    overwrite: bool = False,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train and evaluate a detector for every category (or one for all); write the work directory.

    Same configuration, data, weights and devices give the same detector and metrics, also where the
    run was stopped and called again: it goes on where it was kept last.

    Args:
        config: See docs/configuration.md.
        workdir: Made if needed; gets `config.json`, `train.jsonl`, `checkpoints/`, `results.json`
            and `report/index.html`, and where asked for `profile/` and `track/`; further
            `train.replicates` are work directories below `replicates/`, and `results.json` has mean
            and standard deviation of all.
        overwrite: Replace an earlier run in `workdir` instead of going on with it.
        check: Called between steps and batches; may raise `errors.Stopped`, which comes through
            once all is kept.

    Returns:
        The content of `results.json`.

    Raises:
        InputError: Whatever a user can mend, found before anything is written where possible.
    """
    # From the start: what one process does alone, such as reading all photos, may take minutes.
    with counted_programs() as programs, watched():
        results = _train(config, workdir, overwrite=overwrite, check=check)
    print(programs, file=sys.stderr)
    return results


def _train(
    config: Any, workdir: Path, *, overwrite: bool, check: Callable[[], None]
) -> dict[str, Any]:
    check_config(config)
    config = named(config)
    track.check(config.track)
    parallel = data_parallel(config.train.parallel)
    manifest, digests = read_photos(config)
    backbones = build_backbones(config)
    reading = reading_of(config, backbones)
    todo = jobs_of(manifest, config)
    # Complains before the work directory is touched.
    names = expected_subclasses(todo[0], config)
    model = models(config, backbones, axis_name=parallel.axis_name)
    detector, _ = model(len(names))
    cost = detector.cost(backbones.variables, size=reading.size)
    several, writes = parallel.processes > 1, parallel.process == 0
    # The others compare and write nothing.
    data = trained_on(manifest, digests) if writes else TrainedOn(count(manifest, "train"), {}, {})
    categories = [name for job in todo for name, records in job.test.items() if records]
    runs = []
    for to, own in each_replicate(workdir, config):
        # Random networks are drawn by the seed: those of another replicate are others.
        drawn = to != workdir and network_keys(config).get("random_weights", False)
        runs.append((to, own, build_backbones(own) if drawn else backbones))
    with ExitStack() as stack:
        words, records = Words(), list[record.Record]()
        photos = [photo for job in todo for photo in job.train]
        words.alike(resume.decides(config, backbones.sha256, photos))
        # The first process looks at the folder while the others wait: it can not ask them then.
        own_check, check = check, Agreed(check) if several else check

        def open_() -> dict[str, Any]:
            """Make the work directory this run's; say what is there of it."""
            stack.enter_context(lock.locked(record.usable(workdir), check=own_check))
            found = [
                None if overwrite else resume.standing(to, own, networks.sha256, data)
                for to, own, networks in runs
            ]
            if found[0] is not None:
                results = resume.finished(
                    workdir, found[0], categories=len(categories), replicates=len(runs)
                )
                if results is not None:
                    print(
                        f"{workdir} holds this run, finished: nothing is left to do",
                        file=sys.stderr,
                    )
                    return {"results": results}
                print(f"{workdir} holds this run: going on with it", file=sys.stderr)
            place = None if found[0] is None else resume.place_of(workdir)
            folders = [to for to, *_ in runs]
            asked = ((PROFILE, config.train.profile), (track.FOLDER, config.track))
            more = [name for name, wish in asked if wish]
            records.extend(_claim(folders, found, todo, more, overwrite=overwrite))
            return {"place": place}

        opened = words.first(open_)
        if "results" in opened:
            return dict(opened["results"])
        profile, send = None, track.nowhere
        if writes:
            say_left_out(manifest, config.data.layout)
            say_splits(manifest, digests)
            say_too_few(manifest, config.calibrate)
            print(describe(cost, config, names), file=sys.stderr)
            send = track.started(config, workdir, lambda: records[0].tree(track.FOLDER), stack)
            if config.train.profile:
                profile = Profile(lambda: records[0].tree(PROFILE), *config.train.profile)
        capacity = max(len(job.train) for job in todo)

        def make_trainer(n: int, place: str | None) -> Trainer:
            _, own, networks = runs[n]
            alike = model if networks is backbones else None
            return trainer_of(
                own, networks, parallel, capacity=capacity, model=alike, place=place, check=check
            )

        trainers = [make_trainer(0, opened["place"])]
        # Chosen by the memory of the first process, at the start.
        place = words.first(lambda: trainers[0].place)
        if place != trainers[0].place:
            trainers = [make_trainer(0, place)]
        replicates: list[Replicate | TogetherReplicate] = []
        for n, (to, own, networks) in enumerate(runs):
            if n:
                trainers.append(trainers[0] if networks is backbones else make_trainer(n, place))
            alone = None
            if writes:
                alone = Replicate(
                    own,
                    records[n],
                    networks,
                    data,
                    categories=categories,
                    place=place,
                    also=functools.partial(send, prefix=to.relative_to(workdir).as_posix()),
                )
                stack.callback(alone.close)
                alone.begin(cost._asdict())
            replicates.append(
                TogetherReplicate(alone, own, networks, words)
                if several or alone is None
                else alone
            )
        learnt = {
            job.name: [digests[one.root, one.path][:DIGITS] for one in job.train] for job in todo
        }
        start = time.monotonic()
        manifest = stack.enter_context(
            decoded_once(
                manifest,
                reading,
                prepared_folder(config) or ("off" if several else config.data.prepared),
                lambda: records[0].tree(DECODED),
                reads=_reads(todo, trainers, model(len(names)).phases),
                check=check,
            )
        )
        waited = time.monotonic() - start
        evaluator = Evaluator(
            [job for job in todo for _ in replicates],
            reading,
            parallel,
            batch_size=config.score.batch_size,
            examples=config.report.examples,
            runtime=config.score.runtime,
            check=check,
        )
        for job in jobs_of(manifest, config):
            cache: Any = None
            for n, (trainer, replicate) in enumerate(zip(trainers, replicates)):
                alike = n + 1 < len(trainers) and trainers[n + 1] is trainer
                fit = _trained(
                    job, manifest.root, trainer, replicate, cache, profile, learnt[job.name]
                )
                profile = None  # of the first detector alone
                # For the next replicate; after the last one scoring may have its memory.
                cache = fit.cache if alike else None
                fit = fit._replace(cache=None)
                variables = {"backbones": replicate.backbones.variables, "method": fit.variables}
                outcome = evaluator.evaluate(
                    job,
                    manifest.root,
                    fit.model,
                    variables,
                    n_train=data.n_train,
                    n_calibration=data.n_calibration,
                    subclasses=fit.subclasses,
                    outcomes=replicate.outcomes(job.name),
                )
                outcome.seconds.update(fit.seconds)
                outcome.seconds["features"] += waited
                waited = 0.0
                # Before the report, which draws the line by it.
                if any(job.calibration.values()) and not replicate.calibrated(job.name):
                    found = evaluator.calibrate(
                        job, manifest.root, fit.model, variables, subclasses=fit.subclasses
                    )
                    replicate.calibrate(job.name, found)
                replicate.add(outcome)
        every = [replicate.results for replicate in replicates]
        results = dict(words.first(lambda: add_summary(workdir, every)))
        for replicate in replicates:
            replicate.finish()
        return results


def _trained(
    job: Job,
    root: Path,
    trainer: Trainer,
    replicate: Replicate | TogetherReplicate,
    cache: Any,
    profile: Profile | None,
    learnt: Sequence[str],
) -> Fit:
    """A detector, from before or trained now and kept."""
    there = replicate.trained(job.name, trainer.model)
    if there is not None:
        replicate.keeper(job.name).done()
        return there._replace(cache=cache)

    def log(**values: Any) -> None:
        replicate.log(detector=job.name, **values)

    keeper = replicate.keeper(job.name)
    try:
        fit = trainer.fit(
            job, root, log, seed=replicate.seed, cache=cache, keeper=keeper, profile=profile
        )
    finally:
        keeper.close()
    replicate.save(job.name, fit, learnt)
    keeper.done()
    return fit


def _claim(
    folders: Sequence[Path],
    found: Sequence[record.Record | None],
    todo: Sequence[Job],
    more: Sequence[str],
    *,
    overwrite: bool,
) -> list[record.Record]:
    """Make every replicate's folder its own; those that hold this run (`found`) are so."""
    workdir = folders[0]
    fixed = ["config.json", "train.jsonl", "results.json", DATA, SUBCLASSES, CALIBRATION]
    fixed += ["report/index.html"]
    fixed += [f"{CHECKPOINTS}/{job.name}" for job in todo]
    inner = [to.relative_to(workdir) for to in folders[1:]]
    wanted = [*fixed, DECODED, *(f"{to.as_posix()}/{name}" for to in inner for name in fixed)]
    wanted += more
    claimed = [found[0] or record.claim(workdir, wanted, overwrite=overwrite)]
    claimed[0].sweep()
    for to, there in zip(inner, found[1:]):
        within = claimed[0].within(*to.parts)
        if found[0] is None or there is None:
            there = record.claim(within, fixed, overwrite=overwrite)
        claimed.append(there)
        claimed[-1].sweep()
    return claimed


def _reads(todo: Sequence[Job], trainers: Sequence[Trainer], phases: Sequence[Phase]) -> float:
    """How often the run decodes a photo."""
    cached = trainers[0].place != "off"
    return reads_of(
        train=sum(len(job.train) for job in todo),
        test=sum(len(s) for job in todo for s in (*job.test.values(), *job.calibration.values())),
        seen=None
        if cached
        else sum(images_seen(phases, len(job.train), trainers[0].budget) for job in todo),
        replicates=len(trainers),
        networks=len({id(trainer) for trainer in trainers}),
    )


def trainer_of(
    config: Any,
    backbones: Backbones,
    parallel: DataParallel,
    *,
    capacity: int,
    model: Callable[[int], Model] | None = None,
    place: str | None = None,
    check: Callable[[], None] = lambda: None,
) -> Trainer:
    """Make the trainer of a configuration's detectors, for up to `capacity` training images.

    `place`, if given, is where features are kept, instead of what the configuration says.
    """
    budget = budget_of(config, parallel)
    return Trainer(
        backbones,
        model or models(config, backbones, axis_name=parallel.axis_name),
        budget if place is None else dataclasses.replace(budget, feature_cache=place),
        reading_of(config, backbones),
        parallel,
        capacity=capacity,
        check=check,
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
        augment=tuple(t.augment),
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
