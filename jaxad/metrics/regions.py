"""Defect regions: the connected components of ground-truth masks, and of what a map calls so."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from jaxad.errors import InputError

_NEIGHBOURS = np.ones((3, 3), bool)  # 8-connectivity: diagonal neighbours touch


class Regions(NamedTuple):
    """Connected components of all masks of a dataset, numbered through."""

    labels: np.ndarray
    """`(N, H, W)` int32: 0 where normal, else the region's number, 1 to R."""
    areas: np.ndarray
    """`(R,)` int64: pixels of region 1, 2, ... R."""


def label_regions(masks: np.ndarray) -> Regions:
    """Number the connected components (8-connectivity) of every mask, image by image.

    Regions depend on the masks only, so one call serves every detector that is scored on the same
    images. A region's area is its pixel count: holes do not belong to it.

    Args:
        masks: `(N, H, W)` bool, at the size of the score maps. A small region may vanish when a
            mask is resized, so the number of regions belongs to a size.

    Raises:
        InputError: the masks are not boolean or not of three axes. Grey levels are refused because
            each level would become a region of its own.
    """
    check_masks(masks)
    labels = np.zeros(masks.shape, np.int32)
    count = 0
    for image in np.flatnonzero(masks.any(axis=(1, 2))):
        found = ndimage.label(masks[image], structure=_NEIGHBOURS, output=labels[image])
        labels[image][masks[image]] += count
        count += found
    areas = np.bincount(labels[masks], minlength=count + 1)[1:]
    return Regions(labels, areas.astype(np.int64))


class Found(NamedTuple):
    """A connected component (8-connectivity) of what is anomalous in one map."""

    box: tuple[int, int, int, int]
    """x0, y0, x1, y1, the last two exclusive."""
    area: int
    """Pixels."""
    peak: float
    """The largest value."""


def find_regions(scores: np.ndarray, limit: float, *, most: int) -> list[Found]:
    """The regions of a map that are above a limit, those of the largest values first.

    Args:
        scores: `(H, W)` float.
        limit: Pixels above are anomalous.
        most: How many are told at most.
    """
    mask = scores > limit
    if not mask.any():
        return []
    labels, count = ndimage.label(mask, structure=_NEIGHBOURS)
    numbers = np.arange(1, count + 1)
    peaks = ndimage.maximum(scores, labels, numbers)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    places = ndimage.find_objects(labels)
    found = []
    for n in np.argsort(-peaks, kind="stable")[:most].tolist():
        rows, columns = places[n]
        box = columns.start, rows.start, columns.stop, rows.stop
        found.append(Found(box, int(areas[n + 1]), float(peaks[n])))
    return found


def check_masks(masks: np.ndarray) -> None:
    """Refuse masks that are not boolean or not of three axes, as `label_regions` says."""
    if masks.dtype != bool or masks.ndim != 3:
        raise InputError(
            f"masks are {masks.dtype} of shape {masks.shape}: "
            "they must be boolean (N, H, W); binarise them first, for example with mask > 0"
        )
