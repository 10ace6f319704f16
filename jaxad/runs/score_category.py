"""One category's test images, scored batch by batch: only what results and report need is kept."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxad.core import InputError, Routed, Scores
from jaxad.data.manifest import Manifest, Record
from jaxad.data.reading import Reading
from jaxad.metrics.pixel import stream_curve
from jaxad.metrics.stream import PixelStream
from jaxad.metrics.summary import category_metrics
from jaxad.normal import Normal
from jaxad.parallel import together
from jaxad.progress import track
from jaxad.report.view import CategoryView, ViewStream
from jaxad.scorer import ahead


class Scored(NamedTuple):
    """What is kept of one category's test images once they are scored."""

    metrics: dict[str, Any]
    view: CategoryView
    seconds: float
    steady: tuple[int, float]
    """Images and seconds after the first batch."""


Also = Callable[[slice, Any, np.ndarray, np.ndarray], None]
"""Takes what `scored_batches` yields, maps and image scores by themselves."""
Score = Callable[[Any], Scores | Routed]


def scored_batches(
    kind: str,
    records: Sequence[Record],
    root: Path,
    score: Score,
    *,
    reading: Reading,
    batch_size: int,
    with_masks: bool,
    share: tuple[int, int] = (0, 1),
    check: Callable[[], None] = lambda: None,
) -> Iterator[tuple[slice, Any, Any]]:
    """Score photos in their order; see `score_category` for the arguments.

    Yields:
        For every batch: which of the records it holds, what was read, with `_mask` for what of it
        counts, and of that the scores on the host, as `score` gives them. Some images may be
        computed ahead.

    Raises:
        InputError: A score is not finite.
    """
    stream = reading.batches(
        Manifest(root, tuple(records)), batch_size // share[1], with_masks=with_masks, share=share
    )
    scored = ahead(stream, lambda batch: score(batch["image"]))
    done = 0
    for own, started in track(scored, kind, len(records), "images", batch_size, check=check):
        batch, found = together((own, jax.device_get(started)))
        valid = batch["_mask"]
        rows = slice(done, done + int(valid.sum()))
        found = type(found)(*(np.asarray(value)[valid] for value in found))
        finite = np.isfinite(found.image) & np.isfinite(found.map).all(axis=(1, 2))
        if not finite.all():
            bad = records[done + int(np.argmin(finite))].path
            raise InputError(f"the score of {bad} is not finite: check the weights, or train again")
        yield rows, batch, found
        done = rows.stop


def score_category(
    name: str,
    records: Sequence[Record],
    root: Path,
    score: Score,
    *,
    reading: Reading,
    batch_size: int,
    examples: int,
    n_train: int,
    n_calibration: int = 0,
    subclasses: Sequence[str] = (),
    share: tuple[int, int] = (0, 1),
    check: Callable[[], None] = lambda: None,
    also: Also = lambda *batch: None,
) -> Scored:
    """Score the test images of one category in their order, and measure; no map is kept.

    Images whose mask is unknown count for image metrics only. The next batch is decoded and
    computed while one is measured.

    Args:
        name: Of the category, in results.
        records: Its test images.
        root: Folder of the records.
        score: Starts to score `(B / n, H, W, 3)` uint8 images, and does not wait: `Scorer.score`.
        reading: How photos are read.
        batch_size: B.
        examples: Photos of each kind that the report shows.
        n_train: Training images of the category, for the results.
        n_calibration: Calibration images of the category, for the results.
        subclasses: Names of those that `score` takes images for; none where it gives `Scores`.
        share: (i, n): this process scores as the i-th of n, all of which measure the same.
        check: Called before every batch; may raise, to end the work.
        also: Is given every batch that was scored.

    Raises:
        InputError: A score is not finite.
    """
    height, width = reading.size
    count = len(records)
    labels = np.asarray([not record.is_good for record in records], np.int32)
    scores, has_mask = np.empty(count, np.float32), np.zeros(count, bool)
    pixels = PixelStream(count * height * width)
    view = ViewStream(
        [record.path for record in records],
        labels,
        n=examples,
        kinds=[record.label for record in records],
    )
    start = warm = time.monotonic()
    done = first = 0
    taken: list[str] = []
    for rows, batch, found in scored_batches(
        f"{name} score",
        records,
        root,
        score,
        reading=reading,
        batch_size=batch_size,
        with_masks=True,
        share=share,
        check=check,
    ):
        maps, own = found.map, found.image
        scores[rows] = own
        taken += _names(found, subclasses)
        valid = batch["_mask"]
        masks, known = batch["mask"][valid], batch["has_mask"][valid]
        has_mask[rows] = known
        pixels.add(masks[known], maps[known])
        told = known & (masks.any(axis=(1, 2)) | (labels[rows] == 0))
        view.add(
            batch["image"][valid],
            own,
            maps,
            [mask if tell else None for mask, tell in zip(masks, told)],
        )
        also(rows, batch, maps, own)
        done = rows.stop
        if rows.start == 0:
            warm, first = time.monotonic(), done
    end = time.monotonic()
    maskless = int((~has_mask).sum())
    if 0 < maskless < labels.sum():
        print(
            f"{name}: {maskless} of {labels.sum()} defective images have no mask; "
            "pixel metrics leave them out",
            file=sys.stderr,
        )
    steady = (done - first, end - warm) if done > first else (done, end - start)
    pixel, pro = stream_curve(pixels)
    metrics = category_metrics(labels, scores, pixel, n_train=n_train, n_calibration=n_calibration)
    shown = view.view()._replace(pro=pro, taken=taken)
    return Scored(metrics, shown, end - start, steady)


def _names(found: Any, subclasses: Sequence[str]) -> list[str]:
    """What photos are taken for; none where that is not known."""
    return [subclasses[index] for index in found.subclass] if subclasses else []


def normal_scores(
    name: str,
    records: Sequence[Record],
    root: Path,
    score: Score,
    *,
    reading: Reading,
    batch_size: int,
    subclasses: Sequence[str] = (),
    share: tuple[int, int] = (0, 1),
    check: Callable[[], None] = lambda: None,
) -> Normal:
    """Score normal photos of one category; see `score_category` for the arguments.

    Raises:
        InputError: A score is not finite.
    """
    scores, peaks = np.empty((2, len(records)), np.float32)
    routed: list[str] = []
    for rows, _, found in scored_batches(
        f"{name} calibrate",
        records,
        root,
        score,
        reading=reading,
        batch_size=batch_size,
        with_masks=False,
        share=share,
        check=check,
    ):
        scores[rows], peaks[rows] = found.image, found.map.max(axis=(1, 2))
        routed += _names(found, subclasses)
    own = tuple(record.subclass for record in records)
    return Normal(scores, peaks, own, tuple(routed), tuple(record.path for record in records))
