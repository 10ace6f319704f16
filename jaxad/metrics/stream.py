"""What the exact pixel metrics need of a dataset, gathered batch by batch.

All curves over thresholds change their height only at scores of defective pixels. So the many
normal pixels are kept and sorted as plain numbers, in place, and the few defective ones carry the
area of their region along. Two binary searches then give, for each distinct score of a defective
pixel, how many normal pixels lie above it and how many reach it. Counts are int64; a float32 sum
would stop counting at 2**24 pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jaxad.errors import InputError
from jaxad.metrics.regions import Regions, check_masks, label_regions


class Ranking(NamedTuple):
    """The order of a dataset's pixels; `(K,)`, per distinct defective score, descending."""

    defective: np.ndarray
    """int64: defective pixels of exactly this score."""
    overlap: np.ndarray
    """float64: what they add to the per-region overlap, the sum of 1 / area of their regions."""
    above: np.ndarray
    """int64: normal pixels of a higher score."""
    reached: np.ndarray
    """int64: normal pixels of this score or a higher one."""
    normal: int
    """Normal pixels of the dataset."""


class PixelStream:
    """Scores of all pixels of a dataset: 4 bytes a normal pixel, 12 a defective one.

    Neither maps nor masks are kept, and batches of any size give the same `Ranking`, bit for bit.
    2,000 images of 256 x 256 with 3 % defective pixels take 0.6 GB, and 0.75 GB at the end.
    """

    def __init__(self, pixels: int, dtype: npt.DTypeLike = np.float32) -> None:
        """Make room for `pixels`, the most that may come; `dtype` is that of all score maps."""
        self._normal = np.empty(pixels, dtype)  # taken from the system only as it is filled
        self._filled = 0
        self._images = 0
        self._scores: list[np.ndarray] = []
        self._shares: list[np.ndarray] = []

    def add(self, masks: np.ndarray, maps: np.ndarray, *, regions: Regions | None = None) -> None:
        """Take the next images of the dataset.

        Args:
            masks: `(B, H, W)` bool, True where defective.
            maps: `(B, H, W)` float32 raw scores, higher is more anomalous.
            regions: `label_regions(masks)` where it has been computed before.

        Raises:
            InputError: shapes differ, masks are not boolean, a score is not finite, or regions are
                those of other masks.
            ValueError: more pixels than there is room for, or maps of another dtype.
        """
        if masks.shape != maps.shape:
            raise InputError(
                f"masks have shape {masks.shape} and score maps {maps.shape}: resize the masks "
                "(NEAREST) to the size of the maps"
            )
        check_masks(masks)
        if regions is not None:
            _check_regions(regions, masks)
        if maps.dtype != self._normal.dtype:
            raise ValueError(f"score maps are {maps.dtype}, the stream is {self._normal.dtype}")
        # Image by image: copies stay small, and in the processor's cache.
        for i, (mask, scores) in enumerate(zip(masks, maps)):
            if not np.isfinite(scores).all():
                raise InputError(
                    f"score map {self._images + i} holds NaN or infinity: scores must be finite "
                    "(did training diverge?)"
                )
            normal = scores[~mask]
            room = self._normal[self._filled : self._filled + len(normal)]
            if len(room) < len(normal):
                raise ValueError(f"more than the {self._normal.size} pixels that were announced")
            room[:] = normal
            self._filled += len(normal)
            if len(normal) == mask.size:
                continue
            if regions is None:
                labels, areas = label_regions(mask[None])
                numbers = labels[0][mask]
            else:
                numbers, areas = regions.labels[i][mask], regions.areas
            self._scores.append(scores[mask])
            self._shares.append(1 / areas[numbers - 1])
        self._images += len(maps)

    def rank(self) -> Ranking | None:
        """Sort once, in place; the stream gives up its pixels and ends here.

        Returns:
            None where all pixels are of one kind.
        """
        normal, scores, shares = self._normal[: self._filled], self._scores, self._shares
        self._normal, self._filled = np.empty(0, normal.dtype), 0
        self._scores, self._shares = [], []
        if not len(normal) or not scores:
            return None
        normal.sort()
        distinct, defective, overlap = _grouped(scores, shares)
        return Ranking(
            defective=defective[::-1],
            overlap=overlap[::-1],
            above=len(normal) - np.searchsorted(normal, distinct, side="right")[::-1],
            reached=len(normal) - np.searchsorted(normal, distinct, side="left")[::-1],
            normal=len(normal),
        )


def _grouped(
    scores: list[np.ndarray], shares: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores of defective pixels, ascending; how many have each; the sum of their shares.

    Empties the lists: these pixels are the second largest thing in memory.
    """
    every = np.concatenate(scores)
    scores.clear()
    order = np.argsort(every)
    every = every[order]
    start = np.flatnonzero(np.append(True, every[1:] != every[:-1]))
    share = np.concatenate(shares)
    shares.clear()
    overlap = np.add.reduceat(share[order], start)
    return every[start], np.diff(np.append(start, len(every))), overlap


def rank_pixels(
    masks: np.ndarray, maps: np.ndarray, *, regions: Regions | None = None
) -> Ranking | None:
    """The `Ranking` of a dataset that comes in one batch; arguments as of `PixelStream.add`."""
    stream = PixelStream(masks.size, maps.dtype)
    stream.add(masks, maps, regions=regions)
    return stream.rank()


def _check_regions(regions: Regions, masks: np.ndarray) -> None:
    if regions.labels.shape != masks.shape:
        raise InputError(
            f"regions were labelled for shape {regions.labels.shape}, masks have {masks.shape}"
        )
    if regions.areas.sum() != masks.sum() or not np.array_equal(regions.labels > 0, masks):
        raise InputError("regions were labelled for other masks than these: label them again")
