"""Training one detector: features once, then phase after phase of steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxad.core import Variables
from jaxad.data.manifest import Manifest
from jaxad.detector import Detector
from jaxad.parallel import DataParallel, free_memory
from jaxad.progress import track
from jaxad.recipes.build import build_method, learns_subclasses
from jaxad.recipes.recipe import Backbones
from jaxad.runs.evaluate import Job
from jaxad.training import feature_cache as features
from jaxad.training import subclasses as grouping
from jaxad.training.phases import holdout, run_phase, run_phase_on_devices
from jaxad.training.sampling import image_batches, split, steps_of, training_stream
from jaxad.training.state import init_state

CACHE_SHARE = 0.6
"""A feature cache may take this share of the memory that is free."""


class Fit(NamedTuple):
    """What training one detector yields."""

    variables: Variables
    seconds: dict[str, float]
    subclasses: tuple[str, ...]
    """Names of the subclasses that were learnt by themselves; none: `("",)`."""
    cache: Any
    """The features of the training images, if they were kept."""


def fit_detector(
    job: Job,
    root: Path,
    backbones: Backbones,
    config: Any,
    parallel: DataParallel,
    log: Callable[..., None],
    *,
    cache: Any = None,
) -> tuple[Detector, Fit]:
    """Train one detector, phase after phase, on the job's normal images.

    `cache` may hold their features, if these are there already.
    """
    method, phases = build_method(config, backbones.networks, axis_name=parallel.axis_name)
    detector = Detector(backbones.networks, method)
    frozen = parallel.replicate(backbones.variables)
    rng = jax.random.key(config.train.seed)
    shapes = detector.feature_shapes(backbones.variables, size=tuple(config.data.image_size))

    seconds = {"features": 0.0, "train": 0.0}
    start = time.monotonic()
    need = features.nbytes(shapes, len(job.train), dtype=config.train.cache_dtype)
    place = cache_place(config.train.feature_cache, need)
    compiled = feature_extractor(detector, parallel)

    def extract(images: Any) -> Any:
        return compiled(frozen, images)  # whichever buffers they are in by then

    if cache is None and place != "off":
        manifest = Manifest(root, job.train)
        cache = extract_features(manifest, job.name, shapes, extract, config)
        if place == "device":
            cache = parallel.replicate(cache)
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
            found = extract(batch["image"])
            yield {name: values[batch["_mask"]] for name, values in found.items()}

    def labelled_batches(index: np.ndarray[Any, Any]) -> Iterator[Any]:
        """The same in pairs with what is known of the images."""
        done = 0
        for found in normal_batches(index):
            count = len(next(iter(found.values())))
            yield found, {"subclass": subclasses.of[index[done : done + count]]}
            done += count

    subclasses = grouping.one_for_all(len(job.train))
    if learns_subclasses(config):
        everything = np.arange(len(job.train))
        subclasses = grouping.find(
            job.train,
            lambda: np.concatenate([pooled(found) for found in normal_batches(everything)]),
            clusters=config.method.clusters,
            seed=config.train.seed,
        )
        method, phases = build_method(
            config,
            backbones.networks,
            axis_name=parallel.axis_name,
            subclasses=subclasses.names,
        )
        detector = Detector(backbones.networks, method)
    held, groups = split(subclasses, job.train, config)
    variables = method.init(rng, shapes)

    start = time.monotonic()
    for phase in phases:
        part = phase.method.init(rng, shapes)
        if cache is None:
            part["backbones"] = frozen
        state = parallel.replicate(
            init_state(part, phase.method.optimizer(steps_of(phase, groups, config)))
        )
        if cache is not None and isinstance(cache[phase.features[0]], jax.Array):
            state = run_phase_on_devices(phase, state, cache, groups, config, parallel, log)
        else:
            stream = training_stream(
                phase, job, root, cache, groups, config, devices=parallel.device_count
            )
            state = run_phase(phase, state, stream, detector, groups, config, parallel, log)
        # The state's buffers are donated from step to step, the backbones' among them.
        frozen = state.variables.pop("backbones", frozen)
        for collection, levels in state.variables.items():
            variables[collection] = {**variables.get(collection, {}), **levels}
        if len(held):
            log(phase=phase.name, **holdout(phase, variables, labelled_batches(held)))
    if method.finalize is not None:
        trained = np.unique(np.concatenate(groups))
        variables = method.finalize(variables, labelled_batches(trained))
    jax.block_until_ready(variables)
    seconds["train"] = time.monotonic() - start
    every = {"backbones": frozen, "method": variables}
    return detector, Fit(every, seconds, subclasses.names, cache)


def pooled(found: Any) -> np.ndarray[Any, Any]:
    """All features of some images, averaged over positions: `(B, sum of C)`."""
    return np.concatenate([np.mean(x, axis=(1, 2)) for _, x in sorted(found.items())], axis=-1)


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


def feature_extractor(detector: Detector, parallel: DataParallel) -> Callable[..., Any]:
    """Compile the frozen networks: `f(backbones, images)` yields features on the host."""
    extract = parallel.map(lambda v, images: detector.features({"backbones": v}, images))
    return lambda backbones, images: parallel.gather(extract(backbones, parallel.shard(images)))


def extract_features(
    manifest: Manifest,
    name: str,
    shapes: Any,
    extract: Callable[[Any], Any],
    config: Any,
    *,
    seen: Callable[[Any], None] | None = None,
) -> features.HostFeatures:
    """Compute every image's features once, on the host.

    Args:
        manifest: The images.
        name: For the progress.
        shapes: Of one image's features.
        extract: Maps uint8 images to features on the host.
        config: See `jaxad.config`.
        seen: Is given every batch, masks included; None: no masks are read.
    """
    cache = features.allocate(shapes, len(manifest), dtype=config.train.cache_dtype)
    size = config.score.batch_size
    stream = image_batches(manifest, config, size, with_masks=seen is not None)
    done = 0
    for batch in track(stream, f"{name} features", len(manifest), "images", size):
        valid = batch["_mask"]
        found = extract(batch["image"])
        features.store(cache, done, {key: values[valid] for key, values in found.items()})
        done += int(valid.sum())
        if seen is not None:
            seen(batch)
    return cache
