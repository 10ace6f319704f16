"""Which images and positions a training step sees, in which order.

All of it is drawn on the host, from the seed and the phase's name alone: kept features, photos
decoded anew, one device and several see the same images in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxad.training.subclasses import Subclasses

Index = np.ndarray[Any, np.dtype[Any]]
Group = Sequence[Index]
"""Images of one subclass, in parts that are seen equally often: one part, or one a category."""


def split(
    subclasses: Subclasses,
    categories: Sequence[str],
    *,
    holdout: float,
    balanced: bool,
    seed: int,
) -> tuple[Index, list[Group]]:
    """Hold out a share of the images, and leave some of each subclass to train on.

    Args:
        subclasses: Of the images.
        categories: Of each image.
        holdout: Share of each subclass that is held out; one image at least is left.
        balanced: Whether a subclass's categories are to be seen equally often.
        seed: Of the choice.

    Returns:
        The images held out, and those of each subclass to train on.
    """
    draw = np.random.default_rng(seed)
    held: list[Index] = []
    groups: list[Group] = []
    for members in subclasses.members:
        order = draw.permutation(members)
        out = min(round(holdout * len(order)), len(order) - 1)
        held.append(order[:out])
        kept = np.sort(order[out:])
        of = np.asarray([categories[i] for i in kept])
        groups.append([kept[of == name] for name in np.unique(of)] if balanced else [kept])
    return np.sort(np.concatenate(held)), groups


def epoch_images(groups: Sequence[Group]) -> int:
    """Images in one pass over the groups: small parts of a group count as its largest."""
    return sum(len(group) * max(len(part) for part in group) for group in groups)


def share(size: int, groups: int, devices: int) -> int:
    """Elements of each group in a batch of `size`, rounded up to what groups and devices share."""
    return -(-size // (groups * devices)) * devices


def batch_elements(size: int, groups: int, devices: int) -> int:
    """Images or positions that a step really sees, where `size` are asked for."""
    return share(size, groups, devices) * groups


def steps_of(steps: int, groups: Sequence[Group], *, epochs: int, batch: int) -> int:
    """Steps of a phase: its own budget, or what the epochs come to in batches of `batch`."""
    return steps or epochs * math.ceil(epoch_images(groups) / batch)


def draws(seed: int, phase: str) -> np.random.Generator:
    """Make the source of a phase's draws."""
    return np.random.default_rng([seed, *phase.encode()])


def image_stream(
    groups: Sequence[Group], *, size: int, devices: int, draw: np.random.Generator
) -> Iterator[Index]:
    """Endless batches of images; element j is of group j mod n, on every device.

    Epochs follow each other without a gap, so that every batch is full. In each, every image of a
    group's largest part comes once, and other parts are filled up with images drawn anew.

    Args:
        groups: n of them.
        size: Images asked for, see `batch_elements`.
        devices: That share a batch.
        draw: See `draws`.
    """
    each = share(size, len(groups), devices)
    waiting: list[list[int]] = [[] for _ in groups]
    while True:
        for queue, group in zip(waiting, groups):
            while len(queue) < each:
                queue += _epoch(group, draw).tolist()
        yield in_turn([np.asarray(queue[:each]) for queue in waiting])
        waiting = [queue[each:] for queue in waiting]


def _epoch(group: Group, draw: np.random.Generator) -> Index:
    most = max(len(part) for part in group)
    if len(group) == 1:
        return group[0][draw.permutation(most)]
    filled = []
    for part in group:
        rounds = [draw.permutation(len(part)) for _ in range(math.ceil(most / len(part)))]
        filled.append(part[np.concatenate(rounds)[:most]])
    together = np.concatenate(filled)
    return together[draw.permutation(len(together))]


def position_stream(
    groups: Sequence[Group],
    *,
    size: int,
    per_image: int,
    devices: int,
    draw: np.random.Generator,
) -> Iterator[Index]:
    """Endless batches of positions, with replacement; element j is of group j mod n.

    Args:
        groups: n of them; the parts of a group are drawn from equally often.
        size: Positions asked for, rounded up as images are.
        per_image: Positions of an image; numbers count through images and their positions.
        devices: That share a batch.
        draw: See `draws`.
    """
    each = share(size, len(groups), devices)
    while True:
        yield in_turn([_positions(group, each, per_image, draw) for group in groups])


def _positions(group: Group, each: int, per_image: int, draw: np.random.Generator) -> Index:
    if len(group) == 1:
        at = draw.integers(0, len(group[0]) * per_image, size=each)
        return group[0][at // per_image] * per_image + at % per_image
    part = draw.integers(0, len(group), size=each)
    sizes = np.asarray([len(own) for own in group])[part]
    image = (draw.random(each) * sizes).astype(np.int64)
    starts = np.cumsum([0, *(len(own) for own in group)])[part]
    return np.concatenate(group)[starts + image] * per_image + draw.integers(
        0, per_image, size=each
    )


def in_turn(values: Sequence[Index]) -> Index:
    """Shuffle n arrays of one length into each other: first of each, second of each, ..."""
    together = np.stack(values, axis=1)
    return together.reshape(-1, *together.shape[2:])
