"""From a photo to its row: read as in training, scored, and judged by the calibration."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxad.calibration import Limits
from jaxad.core import InputError
from jaxad.data.image_file import Held
from jaxad.data.images import read_image, to_array
from jaxad.data.sources import Photo, check_regular
from jaxad.metrics.regions import find_regions
from jaxad.runs.models import Judge, Score
from jaxad.runs.shards import Row, plain

MOST_REGIONS = 100
"""That a row has at most, the strongest."""


class Decoded(NamedTuple):
    """A photo as the detector sees it."""

    photo: Photo
    pixels: np.ndarray | None
    """`(H, W, 3)` uint8; None where it can not be read."""
    size: tuple[int, int]
    """(height, width) of the photo itself."""
    error: str


class Judged(NamedTuple):
    """A photo's row, and what may be drawn of it."""

    photo: Photo
    row: Row
    map: np.ndarray | None
    """`(H, W)` float32."""
    limits: Limits | None = None
    """What decided."""


def decode(photo: Photo, judge: Judge, data: bytes | None = None) -> Decoded:
    """Read and resize a photo exactly as training does; what is wrong with it is kept.

    `data` is what its file holds, where there is none on a disk.
    """
    try:
        image = read(photo, judge, data)
        pixels = to_array(image, size=judge.size, resample=judge.resample)
        return Decoded(photo, pixels, (image.height, image.width), "")
    except InputError as error:
        return Decoded(photo, None, (0, 0), str(error))


def start(batch: Sequence[Decoded], score: Score, judge: Judge) -> Any:
    """Start to score those that could be read, in a full batch; None where there are none.

    Of fewer images, the scores would be cut out by a program that is compiled for that number.
    """
    pixels = [one.pixels for one in batch if one.pixels is not None]
    if not pixels:
        return None
    images = np.zeros((judge.batch_size, *judge.size, 3), np.uint8)
    images[: len(pixels)] = pixels
    return score(images)


def judged(batch: Sequence[Decoded], started: Any, judge: Judge) -> Iterator[Judged]:
    """Wait for the scores of a batch, and decide."""
    found: Iterator[Any] = iter(())
    if started is not None:
        maps, scores, *routed = (np.asarray(x) for x in jax.device_get(tuple(started)))
        finite = np.isfinite(scores) & np.isfinite(maps).all(axis=(1, 2))
        taken = _names(routed[0], judge) if routed else [""] * len(scores)
        p_values = judge.lines.p_values(np.where(finite, scores, 0), taken)
        found = zip(maps, scores, p_values, finite, taken)
    empty = Row(path="", category=judge.category, model=judge.id)
    for one in batch:
        row = empty._replace(path=plain(one.photo.path))
        if one.pixels is None:
            yield Judged(one.photo, row._replace(error=plain(one.error)), None)
            continue
        map_, score, p_value, usable, subclass = next(found)
        limits = judge.lines.of(subclass)
        height, width = one.size
        row = row._replace(width=width, height=height)
        if not usable:
            told = "the score is not finite: check the weights, or train again"
            yield Judged(one.photo, row._replace(error=told), None)
            continue
        row = row._replace(
            subclass=plain(subclass),
            score=float(score),
            p_value=float(p_value),
            decision="anomalous" if score > limits.score else "good",
            threshold=limits.score,
            regions=_regions(map_, limits.pixel, one.size),
        )
        yield Judged(one.photo, row, map_, limits)


def _names(taken: np.ndarray, judge: Judge) -> list[str]:
    """Of subclasses by their places, which may be a stranger's program's."""
    known = len(judge.subclasses)
    if not ((taken >= 0) & (taken < known)).all():
        raise InputError(
            f"model {judge.id} takes a photo for a subclass beyond the {known} that it names: "
            "export it again"
        )
    return [judge.subclasses[index] for index in taken]


def _regions(scores: np.ndarray, limit: float, size: tuple[int, int]) -> str:
    """The regions of a map in pixels of a photo of that size, as JSON.

    They are found where the limit was calibrated, in the map as the detector gives it.
    """
    high, wide = size[0] / scores.shape[0], size[1] / scores.shape[1]
    found = []
    for (x0, y0, x1, y1), area, peak in find_regions(scores, limit, most=MOST_REGIONS):
        box = [int(x0 * wide), int(y0 * high), math.ceil(x1 * wide), math.ceil(y1 * high)]
        own = max(1, round(area * high * wide))
        found.append({"box": box, "area": own, "peak": float(f"{peak:.7g}")})
    return json.dumps(found)


def read(photo: Photo, judge: Judge, data: bytes | None = None) -> Any:
    """The photo itself, which is read again to be drawn on: those of a batch can take gigabytes.

    Raises:
        InputError: It can not be read.
    """
    if data is not None:
        return read_image(Held(photo.path, data), upright=judge.upright)
    check_regular(photo.path)
    return read_image(Path(photo.path), upright=judge.upright)
