"""Training one detector: features once, then phase after phase of steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxad import features
from jaxad.build import build_method
from jaxad.core import Array, Aux, InputError, Variables
from jaxad.data.manifest import Manifest
from jaxad.data.pipeline import batches
from jaxad.detector import Detector
from jaxad.evaluate import Job
from jaxad.parallel import DataParallel, free_memory
from jaxad.plan import Backbones, Phase
from jaxad.progress import Progress, track
from jaxad.state import TrainState, init_state
from jaxad.steps import make_train_step

CACHE_SHARE = 0.6
"""A feature cache may take this share of the memory that is free."""


class Fit(NamedTuple):
    """What training one detector yields."""

    variables: Variables
    seconds: dict[str, float]


def fit_detector(
    job: Job,
    root: Path,
    backbones: Backbones,
    config: Any,
    parallel: DataParallel,
    log: Callable[..., None],
) -> tuple[Detector, Fit]:
    """Train one detector, phase after phase, on the job's normal images."""
    method, phases = build_method(config, backbones.networks, axis_name=parallel.axis_name)
    detector = Detector(backbones.networks, method)
    frozen = parallel.replicate(backbones.variables)
    rng = jax.random.key(config.train.seed)

    order = np.random.default_rng(config.train.seed).permutation(len(job.train))
    held = np.sort(order[: min(round(config.train.holdout * len(order)), len(order) - 1)])
    kept = np.sort(order[len(held) :])
    if config.train.sampling == "balanced":
        kept = balanced(kept, [job.train[i].category for i in kept])
    shapes = detector.feature_shapes(backbones.variables, size=tuple(config.data.image_size))
    variables = method.init(rng, shapes)

    seconds = {"features": 0.0, "train": 0.0}
    start = time.monotonic()
    need = features.nbytes(shapes, len(job.train), dtype=config.train.cache_dtype)
    place = cache_place(config.train.feature_cache, need)
    cache: Any = None
    extract = parallel.map(lambda v, images: detector.features({"backbones": v}, images))
    if place != "off":
        cache = extract_features(job, root, shapes, extract, frozen, config, parallel)
        if place == "device":
            cache = jax.device_put(cache)
    seconds["features"] = time.monotonic() - start

    def normal_batches(index: np.ndarray[Any, Any]) -> Iterator[Any]:
        """Features of some training images, for passes without gradient."""
        if cache is not None:
            size = config.score.batch_size
            for i in range(0, len(index), size):
                yield features.as_float32(features.take_images(cache, index[i : i + size]))
            return
        chosen = Manifest(root, tuple(job.train[i] for i in index))
        for batch in image_batches(chosen, config, config.score.batch_size):
            found = extract(frozen, parallel.shard(batch["image"]))
            yield {name: values[batch["_mask"]] for name, values in found.items()}

    start = time.monotonic()
    for phase in phases:
        part = phase.method.init(rng, shapes)
        if cache is None:
            part["backbones"] = frozen
        state = parallel.replicate(
            init_state(part, phase.method.optimizer(steps_of(phase, kept, config)))
        )
        stream = training_stream(phase, job, root, cache, kept, config)
        state = run_phase(phase, state, stream, detector, kept, config, parallel, log)
        # The state's buffers are donated from step to step, the backbones' among them.
        frozen = state.variables.pop("backbones", frozen)
        for collection, levels in state.variables.items():
            variables[collection] = {**variables.get(collection, {}), **levels}
        if len(held):
            log(phase=phase.name, holdout=holdout_score(phase, variables, normal_batches(held)))
    if method.finalize is not None:
        variables = method.finalize(variables, normal_batches(held if len(held) else kept))
    jax.block_until_ready(variables)
    seconds["train"] = time.monotonic() - start
    return detector, Fit({"backbones": frozen, "method": variables}, seconds)


def cache_place(wish: str, need: int) -> str:
    """Choose where `need` bytes of cached features are kept: "device", "host" or "off".

    "auto" takes the memory of the accelerator if there is one with room, else the host's, else
    computes features anew in every step.
    """
    if wish != "auto":
        return wish
    device, host = free_memory()
    if need < CACHE_SHARE * device:
        return "device"
    return "host" if need < CACHE_SHARE * host else "off"


def balanced(index: np.ndarray[Any, Any], categories: Sequence[str]) -> np.ndarray[Any, Any]:
    """Repeat the images of small categories, so that each has as many as the largest has.

    Args:
        index: `(N,)` images.
        categories: The category of each.

    Returns:
        `(categories * largest,)` images; an epoch over them sees all categories equally often.
    """
    of = np.asarray(categories)
    names, counts = np.unique(of, return_counts=True)
    return np.concatenate([np.resize(index[of == name], counts.max()) for name in names])


def image_batches(manifest: Manifest, config: Any, size: int, **options: Any) -> Any:
    """Batches of a manifest's images as the configuration decodes them, without masks."""
    return batches(
        manifest,
        image_size=tuple(config.data.image_size),
        batch_size=size,
        resample=config.data.resize,
        workers=config.data.workers,
        with_masks=False,
        **options,
    )


def extract_features(
    job: Job,
    root: Path,
    shapes: Any,
    extract: Callable[..., Any],
    frozen: Variables,
    config: Any,
    parallel: DataParallel,
) -> features.HostFeatures:
    """Compute every training image's features once, on the host."""
    cache = features.allocate(shapes, len(job.train), dtype=config.train.cache_dtype)
    size = config.score.batch_size
    stream = image_batches(Manifest(root, job.train), config, size)
    done = 0
    for batch in track(stream, f"{job.name} features", len(job.train), "images", size):
        valid = batch["_mask"]
        found = extract(frozen, parallel.shard(batch["image"]))
        features.store(cache, done, {name: values[valid] for name, values in found.items()})
        done += int(valid.sum())
    return cache


def steps_of(phase: Phase, kept: np.ndarray[Any, Any], config: Any) -> int:
    """Steps of a phase: its own budget, or what the epochs come to."""
    return phase.steps or config.train.epochs * math.ceil(len(kept) / config.train.batch_size)


def training_stream(
    phase: Phase, job: Job, root: Path, cache: Any, kept: np.ndarray[Any, Any], config: Any
) -> Iterator[Any]:
    """Endless, seeded batches of one phase: images, cached maps, or drawn positions."""
    size = config.train.batch_size
    if cache is None:
        chosen = Manifest(root, tuple(job.train[i] for i in kept))
        stream = image_batches(chosen, config, size, shuffle_seed=config.train.seed, repeat=True)
        yield from ({"image": batch["image"]} for batch in stream)
        return
    used = {name: cache[name] for name in phase.features}
    draw = np.random.default_rng([config.train.seed, *phase.name.encode()])
    if phase.positions:
        _, height, width, _ = next(iter(used.values())).shape
        per_image = height * width
        while True:
            index = draw.integers(0, len(kept) * per_image, size=phase.positions)
            yield features.take_positions(
                used, kept[index // per_image] * per_image + index % per_image
            )
    waiting: list[int] = []
    while True:  # epochs follow each other without a gap, so that every batch is full
        while len(waiting) < size:
            waiting += kept[draw.permutation(len(kept))].tolist()
        yield features.take_images(used, np.asarray(waiting[:size]))
        waiting = waiting[size:]


def run_phase(
    phase: Phase,
    state: TrainState,
    stream: Iterator[Any],
    detector: Detector,
    kept: np.ndarray[Any, Any],
    config: Any,
    parallel: DataParallel,
    log: Callable[..., None],
) -> TrainState:
    """Take the phase's steps, at most two in flight, and log its losses.

    Raises:
        InputError: The loss is not finite.
    """
    steps = steps_of(phase, kept, config)
    share = phase.positions // parallel.device_count

    def loss(variables: Variables, batch: Any, rng: Array) -> tuple[Array, Aux]:
        own = {name: tree for name, tree in variables.items() if name != "backbones"}
        if "image" not in batch:
            return phase.method.loss(own, features.as_float32(batch), {}, rng)
        found = detector.features(variables, batch["image"])
        found = {name: found[name] for name in phase.features}
        if share:
            found = features.draw_positions(rng, found, count=share)
        return phase.method.loss(own, found, {}, rng)

    step = parallel.train_step(
        make_train_step(loss, phase.method.optimizer(steps), mean=parallel.mean)
    )
    rng = parallel.replicate(jax.random.key(config.train.seed))
    progress = Progress(f"train {phase.name}", steps, "steps")
    previous: Any = None
    for number in range(1, steps + 1):
        state, metrics = step(state, parallel.shard(next(stream)), rng)
        # Reading the step before last keeps two in flight: the device never waits, nor piles up.
        previous, metrics = metrics, previous
        if metrics is not None:
            report(metrics, number - 1, steps, phase, config, progress, log)
    report(previous, steps, steps, phase, config, progress, log)
    return state


def report(
    metrics: Any,
    number: int,
    steps: int,
    phase: Phase,
    config: Any,
    progress: Progress,
    log: Callable[..., None],
) -> None:
    """Check and show the metrics of a finished step."""
    values = {name: float(total) / float(count) for name, (total, count) in metrics.items()}
    if not math.isfinite(values["loss"]):
        raise InputError(
            f"training diverged: the loss of phase {phase.name!r} is {values['loss']} at step "
            f"{number}; lower method.learning_rate, or check the images and weights"
        )
    if number % config.train.log_every == 0 or number in (1, steps):
        log(phase=phase.name, step=number, **values)
    progress.advance(note=f"loss {values['loss']:.3g}")


def holdout_score(phase: Phase, variables: Variables, stream: Iterator[Any]) -> float:
    """Mean of the phase's score map over held-out normal images."""

    @jax.jit
    def mean_map(variables: Variables, found: Any) -> Array:
        return phase.method.score(variables, found, size=(64, 64)).map.mean()

    values = [
        (float(mean_map(variables, found)), len(next(iter(found.values())))) for found in stream
    ]
    return sum(value * count for value, count in values) / sum(count for _, count in values)
