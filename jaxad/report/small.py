"""Small pictures of a category's photos for the table of all: photo and heatmap side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxad.report.colour import overlay

SIDE = 72
"""Pixels of a picture's longer side."""
MOST = 300
"""Photos of a category that have one; above, the most telling."""
_QUALITY = 70


class Small(NamedTuple):
    """Photos that have a small picture, their maps beside them."""

    numbers: np.ndarray
    """`(K,)` int: which of the test photos, ascending."""
    photos: np.ndarray
    """`(K, h, w, 3)` uint8 RGB."""
    maps: np.ndarray
    """`(K, h, w)` float32 raw scores."""


def shrink(image: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A photo `(H, W, 3)` uint8 and its map at one small size; none is blown up."""
    height, width = image.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    photo = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    heat = Image.fromarray(np.ascontiguousarray(scores, np.float32))
    return np.asarray(photo), np.asarray(heat.resize(size, Image.Resampling.BILINEAR))


def stacked(there: dict[int, tuple[np.ndarray, np.ndarray]]) -> Small | None:
    """What `shrink` gave of some photos, by their number; None of none."""
    if not there:
        return None
    numbers = sorted(there)
    photos, maps = ([there[i][part] for i in numbers] for part in (0, 1))
    return Small(np.asarray(numbers), np.stack(photos), np.stack(maps))


def pictures(
    small: Small | None, colours: tuple[float, float], order: Iterable[int], budget: float
) -> dict[int, str]:
    """Small pictures as data URIs, by number of the photo.

    Args:
        small: Those that there are.
        colours: Scores at the two ends of the heatmap's colours.
        order: Numbers of photos, the most telling first.
        budget: Characters that all pictures may take; who comes too late has none.
    """
    found: dict[int, str] = {}
    if small is None:
        return found
    place = {int(i): k for k, i in enumerate(small.numbers)}
    for i in order:
        if i not in place:
            continue
        photo, scores = small.photos[place[i]], small.maps[place[i]]
        pair = np.concatenate([photo, overlay(photo, scores, colours)], axis=1)
        uri = data_uri(pair, quality=_QUALITY)
        budget -= len(uri)
        if budget < 0:
            break
        found[i] = uri
    return found


def data_uri(pixels: np.ndarray, **options: int) -> str:
    """A JPEG as a data URI; options are Pillow's.

    Not its `optimize`: it wants room for the whole file at once, and fails for a noisy photo.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
