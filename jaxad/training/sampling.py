"""Which images and positions a training step sees, in which order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxad.data.manifest import Manifest, Record
from jaxad.data.pipeline import batches
from jaxad.recipes.recipe import Phase
from jaxad.runs.evaluate import Job
from jaxad.training import feature_cache as features
from jaxad.training.subclasses import Subclasses


def split(
    subclasses: Subclasses, records: Sequence[Record], config: Any
) -> tuple[np.ndarray[Any, Any], list[np.ndarray[Any, Any]]]:
    """Hold out the share of images that the configuration names, and leave some of each subclass.

    Returns:
        The images held out, and those of each subclass to train on, repeated where
        `train.sampling` balances categories.
    """
    draw = np.random.default_rng(config.train.seed)
    held, groups = [], []
    for members in subclasses.members:
        order = draw.permutation(members)
        out = min(round(config.train.holdout * len(order)), len(order) - 1)
        held.append(order[:out])
        kept = np.sort(order[out:])
        if config.train.sampling == "balanced":
            kept = balanced(kept, [records[i].category for i in kept])
        groups.append(kept)
    return np.sort(np.concatenate(held)), groups


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
        **{"with_masks": False, **options},
    )


def steps_of(phase: Phase, groups: Sequence[np.ndarray[Any, Any]], config: Any) -> int:
    """Steps of a phase: its own budget, or what the epochs come to."""
    count = sum(len(kept) for kept in groups)
    return phase.steps or config.train.epochs * math.ceil(count / config.train.batch_size)


def training_stream(
    phase: Phase,
    job: Job,
    root: Path,
    cache: Any,
    groups: Sequence[np.ndarray[Any, Any]],
    config: Any,
    *,
    devices: int = 1,
) -> Iterator[Any]:
    """Endless, seeded batches of one phase: images, cached maps, or drawn positions.

    A batch goes through the `groups` in turn, on every device: element j is of group j mod n. Its
    size is the configured one, rounded up to what n and devices share.
    """
    if cache is None:
        seed, each = config.train.seed, share(config.train.batch_size, len(groups), devices)
        chosen = [Manifest(root, tuple(job.train[i] for i in kept)) for kept in groups]
        streams = [
            image_batches(own, config, each, shuffle_seed=seed, repeat=True) for own in chosen
        ]
        for found in zip(*streams):
            yield {"image": in_turn([batch["image"] for batch in found])}
        return
    pick = taker(phase)
    for index in index_stream(phase, cache, groups, config, devices=devices):
        yield pick(cache, index)


def taker(phase: Phase) -> Callable[[Any, Any], Any]:
    """What makes a phase's batch of a cache and an index: `f(cache, index)`."""
    take = features.take_positions if phase.positions else features.take_images
    return lambda cache, index: take({name: cache[name] for name in phase.features}, index)


def index_stream(
    phase: Phase,
    cache: Any,
    groups: Sequence[np.ndarray[Any, Any]],
    config: Any,
    *,
    devices: int = 1,
) -> Iterator[np.ndarray[Any, Any]]:
    """Endless, seeded indices of one phase's batches into a cache: of images, or of positions.

    As in `training_stream`, element j is of group j mod n.
    """
    n = len(groups)
    draw = np.random.default_rng([config.train.seed, *phase.name.encode()])
    if phase.positions:
        each = share(phase.positions, n, devices)
        _, height, width, _ = cache[phase.features[0]].shape
        per_image = height * width
        while True:
            drawn = [draw.integers(0, len(kept) * per_image, size=each) for kept in groups]
            yield in_turn(
                [
                    kept[at // per_image] * per_image + at % per_image
                    for kept, at in zip(groups, drawn)
                ]
            )
    each = share(config.train.batch_size, n, devices)
    waiting: list[list[int]] = [[] for _ in groups]
    while True:  # epochs follow each other without a gap, so that every batch is full
        for queue, kept in zip(waiting, groups):
            while len(queue) < each:
                queue += kept[draw.permutation(len(kept))].tolist()
        yield in_turn([np.asarray(queue[:each]) for queue in waiting])
        waiting = [queue[each:] for queue in waiting]


def share(size: int, groups: int, devices: int) -> int:
    """Elements of each group in a batch of `size`, rounded up to what groups and devices share."""
    return -(-size // (groups * devices)) * devices


def in_turn(values: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Shuffle n arrays of one length into each other: first of each, second of each, ..."""
    together = np.stack(values, axis=1)
    return together.reshape(-1, *together.shape[2:])
