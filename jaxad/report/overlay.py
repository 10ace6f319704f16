"""What is drawn of one scored photo at its own size: map, heatmap over the photo, mask."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from jaxad.report.colour import outline, overlay

_STRIP = 1024 * 1024
"""Pixels that are coloured at a time: colours take 100 bytes each."""
# No chroma subsampling: it would smear outlines. PNG: level 6 takes three times as long.
_OPTIONS = {"JPEG": {"quality": 90, "subsampling": 0}, "PNG": {"compress_level": 1}}


def map_at(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map at a photo's own size, bilinearly: `(height, width)` float32.

    Args:
        scores: `(H, W)` float32.
        size: `(height, width)`.
    """
    image = Image.fromarray(np.ascontiguousarray(scores, np.float32))
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))


def draw_overlay(
    photo: Image.Image,
    scores: np.ndarray,
    *,
    limit: float,
    colours: tuple[float, float],
    kind: str = "JPEG",
) -> bytes:
    """The photo with its heat, and with an outline around what is above the limit.

    Args:
        photo: Of mode "L" or "RGB".
        scores: `(height, width)` float32, of the photo's size.
        limit: Pixels above are anomalous.
        colours: Scores at the two ends of the colours; see `colour.overlay`.
        kind: "JPEG" or "PNG".
    """
    drawn = np.empty((photo.height, photo.width, 3), np.uint8)
    step = max(1, _STRIP // photo.width)
    for top in range(0, photo.height, step):
        end = min(top + step, photo.height)
        # A row more on both sides, for outlines that come from there.
        first, last = max(0, top - 1), min(photo.height, end + 1)
        strip = np.asarray(photo.crop((0, first, photo.width, last)).convert("RGB"))
        heat = overlay(strip, scores[first:last], colours, dim=1.0)
        heat = outline(heat, scores[first:last] > limit)
        drawn[top:end] = heat[top - first : end - first]
    return _encoded(Image.fromarray(drawn), kind, **_OPTIONS[kind])


def draw_mask(scores: np.ndarray, limit: float) -> bytes:
    """A PNG with 255 where a map `(height, width)` is above the limit, and 0 elsewhere."""
    return _encoded(Image.fromarray((scores > limit).astype(np.uint8) * 255), "PNG")


def write_map(scores: np.ndarray) -> bytes:
    """A npz with the array `map`."""
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, map=scores)
    return data.getvalue()


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()
