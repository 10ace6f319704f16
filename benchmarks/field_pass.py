"""One pass over a set's photos for all methods that read the same of them: `benchmarks.field`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.ablation import METRICS
from benchmarks.measure import interleave, machine
from jaxad.config import parse_config
from jaxad.core import Scores, Variables
from jaxad.data.jobs import Job
from jaxad.data.manifest import Manifest
from jaxad.data.reading import Reading
from jaxad.detector import Detector
from jaxad.metrics.pixel import stream_metrics
from jaxad.metrics.stream import PixelStream
from jaxad.metrics.summary import category_metrics
from jaxad.parallel import data_parallel
from jaxad.progress import track
from jaxad.recipes.build import build_backbones
from jaxad.recipes.recipe import Backbones
from jaxad.runs.dataset import reading_of
from jaxad.runs.train import trainer_of
from jaxad.scorer import Scorer, make_scorer
from jaxad.training.fit import Fit

BATCH = 8
ROUNDS = 3
"""In which photos a second are timed, after one that does not count."""
Cell = dict[str, Any]
"""What was measured of a method on a set."""


class Entry(NamedTuple):
    """A method of the field."""

    config: str
    changes: tuple[str, ...] = ()
    """`key=value`, its budget and what else differs from the configuration."""
    drawn: bool = True
    """Whether a seed changes anything."""
    maps: bool = True
    """Whether it says where a defect is."""


class Subject(NamedTuple):
    """A method as it is to be measured on one set."""

    name: str
    entry: Entry
    config: Any
    backbones: Backbones
    seeds: Sequence[int]
    """Those that are missing."""


def subject(name: str, entry: Entry, changes: Sequence[str], seeds: Sequence[int]) -> Subject:
    """Configure a method for a set, whose `changes` are as of the command line.

    Raises:
        InputError: Its weights are not there.
    """
    own = [f"--config.{change}" for change in (*entry.changes, "data.calibration=0")]
    config = parse_config(["--config", entry.config, *changes, *own])
    return Subject(name, entry, config, build_backbones(config), seeds)


def serves(one: Subject, other: Subject) -> bool:
    """Whether the features of the first subject hold those of the second."""

    def read_by(subject: Subject) -> Any:
        """What decides features, but for the levels at which a network is read."""
        modules = {}
        for role, network in subject.backbones.networks.items():
            plain = set(getattr(network.module, "levels", ())) == set(network.levels)
            modules[role] = network.module.clone(levels=()) if plain else network.module
        reading = reading_of(subject.config, subject.backbones)
        return reading, modules, subject.backbones.sha256, subject.config.train.cache_dtype

    return bool(read_by(one) == read_by(other)) and levels_of(one) >= levels_of(other)


def levels_of(subject: Subject) -> set[str]:
    """Names of the features that a subject reads."""
    networks = subject.backbones.networks.items()
    return {f"{role}/{level}" for role, network in networks for level in network.levels}


def groups(subjects: Sequence[Subject]) -> list[list[Subject]]:
    """Those that share a pass over the photos; the first one's features hold all others'."""
    found: list[list[Subject]] = []
    for each in sorted(subjects, key=lambda subject: -len(levels_of(subject))):
        for group in found:
            if serves(group[0], each):
                group.append(each)
                break
        else:
            found.append([each])
    return found


class Photos(NamedTuple):
    """What a group learns and is judged on."""

    job: Job
    root: Path
    reading: Reading


class Learnt(NamedTuple):
    """A subject, once for each of its seeds."""

    subject: Subject
    detector: Detector
    variables: list[Variables]
    """The method's own."""
    took: list[list[float]]
    """As `since` has it."""


def now() -> tuple[float, float]:
    """Seconds of the clock, and those that all threads of this process have computed."""
    return time.monotonic(), time.process_time()


def since(start: tuple[float, float]) -> list[float]:
    """Both since then; the second hardly depends on what else a machine does."""
    return [end - begin for begin, end in zip(start, now())]


def learn(group: Sequence[Subject], photos: Photos) -> tuple[list[Learnt], list[float]]:
    """Train all subjects for all seeds on features that are computed once; what these took."""
    job, root, _ = photos
    parallel = data_parallel("jit", devices=jax.local_devices()[:1])
    trainers = [
        trainer_of(each.config, each.backbones, parallel, capacity=len(job.train)) for each in group
    ]
    start, cache = now(), None
    if trainers[0].place != "off":  # else each has them computed as it goes
        cache = trainers[0].extract(Manifest(root, job.train), job.name)
    passed = since(start)
    found = []
    for each, trainer in zip(group, trainers):
        own = cache and {name: cache[name] for name in trainer.shapes}
        fits: list[Fit] = []
        took: list[list[float]] = []
        for seed in each.seeds:
            start = now()
            fits.append(trainer.fit(job, root, lambda **_: None, seed=seed, cache=own))
            took.append(since(start))
        detector = fits[0].model.detector
        found.append(Learnt(each, detector, [fit.variables for fit in fits], took))
    return found, passed


def judge(learnt: Sequence[Learnt], photos: Photos) -> list[list[dict[str, Any]]]:
    """Metrics of every subject for every seed, from one pass over the test photos."""
    job, root, reading = photos
    ((name, records),) = job.test.items()
    first, size = learnt[0], reading.size
    features = jax.jit(lambda frozen, x: first.detector.features({"backbones": frozen}, x))
    judges: list[Callable[[Any], Scores]] = []
    for each in learnt:
        score = jax.jit(partial(each.detector.method.score, size=size))
        fold = jax.jit(each.detector.method.fold or (lambda variables: variables))
        judges += [partial(score, fold(variables)) for variables in each.variables]
    names = [levels_of(each.subject) for each in learnt for _ in each.variables]
    labels = np.asarray([not record.is_good for record in records], np.int32)
    scores = np.empty((len(judges), len(records)), np.float32)
    pixels = [PixelStream(len(records) * size[0] * size[1]) for _ in judges]
    stream, done = reading.batches(Manifest(root, records), BATCH, with_masks=True), 0
    for batch in track(stream, f"{name} judged", len(records), "images", BATCH):
        found = features(first.subject.backbones.variables, batch["image"])
        valid = batch["_mask"]
        known, masks = batch["has_mask"][valid], batch["mask"][valid]
        rows = slice(done, done + int(valid.sum()))
        for n, judged in enumerate(judges):
            maps, image = jax.device_get(judged({level: found[level] for level in names[n]}))
            scores[n, rows] = image[valid]
            pixels[n].add(masks[known], maps[valid][known])
        done = rows.stop
    metrics = iter(
        category_metrics(labels, own, stream_metrics(stream), n_train=len(job.train))
        for own, stream in zip(scores, pixels)
    )
    return [[next(metrics) for _ in each.variables] for each in learnt]


def speeds(learnt: Sequence[Learnt], photos: Photos) -> list[list[list[float]]]:
    """What a batch takes every subject, in rounds, by what `jaxad predict` scores with."""
    job, root, reading = photos
    (records,) = job.test.values()
    images = next(iter(reading.batches(Manifest(root, records[:BATCH]), BATCH)))["image"]
    runs: dict[str, Callable[[], None]] = {}
    took: list[list[list[float]]] = [[] for _ in learnt]
    for each, own in zip(learnt, took):
        variables = {"backbones": each.subject.backbones.variables, "method": each.variables[-1]}
        scorer = make_scorer(each.detector, variables, batch_size=BATCH, size=reading.size)

        def run(scorer: Scorer = scorer, own: list[list[float]] = own) -> None:
            start = now()
            jax.block_until_ready(scorer.score(images))
            own.append(since(start))

        runs[each.subject.name] = run
    interleave(runs, pairs=ROUNDS, warmup=1)
    return [own[1:] for own in took]


def measure(group: Sequence[Subject], photos: Photos) -> dict[str, Cell]:
    """The cells of a group: method -> cell, of the seeds that were missing."""
    learnt, passed = learn(group, photos)
    found = {}
    for each, metrics, rounds in zip(learnt, judge(learnt, photos), speeds(learnt, photos)):
        entry = each.subject.entry
        kept = [each.subject.backbones.variables, each.variables[-1]]
        found[each.subject.name] = {
            "config": entry.config,
            "changes": list(entry.changes),
            "metrics": [
                {m: one[m] if entry.maps or m == METRICS[0] else None for m in METRICS}
                for one in metrics
            ],
            "seconds": {"features": passed[0], "train": [wall for wall, _ in each.took]},
            "images_per_second": [BATCH / wall for wall, _ in rounds],
            "cpu": {
                "features": passed[1],
                "train": [cpu for _, cpu in each.took],
                "image": [cpu / BATCH for _, cpu in rounds],
            },
            "megabyte": sum(leaf.nbytes for leaf in jax.tree.leaves(kept)) / 1e6,
            "n_train": metrics[0]["n_train"],
            "n_test": metrics[0]["n_test"],
            "machine": {**machine(), "load": os.getloadavg()[1]},
        }
    return found
