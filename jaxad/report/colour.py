"""Heatmap colours: one scale a category, an ordered colour map, overlays and mask outlines."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

# Violet over red and orange to pale yellow, each point lighter than the one before, so that the
# order of scores survives a grey print and every common form of colour blindness.
_CONTROL = np.array(
    [
        [38, 12, 92],
        [98, 22, 118],
        [158, 38, 100],
        [212, 70, 60],
        [246, 124, 24],
        [253, 190, 50],
        [255, 248, 180],
    ],
    np.float64,
)
OUTLINE = np.array([0, 229, 255], np.uint8)
"""Cyan, which the colour map does not contain."""

_SAMPLES = 4_000_000  # pixels looked at for a percentile


def colour_sample(maps: np.ndarray, *, images: int) -> np.ndarray:
    """Draw from some of a category's score maps what `colour_range` looks at.

    Args:
        maps: `(B, H, W)` score maps.
        images: photos of the category in all.

    Returns:
        `(B, S)`, of its own memory; about 4 million pixels from all photos together.
    """
    # An odd step walks through all columns of maps whose width is a power of two.
    step = images * maps[:1].size // _SAMPLES | 1
    return maps.reshape(len(maps), -1)[:, ::step].copy()


def colour_range(maps: np.ndarray, labels: npt.ArrayLike) -> tuple[float, float]:
    """The scores at the two ends of a category's colours.

    The scale is common to all photos of a category: scaled photo by photo, the strongest spot of
    every good photo would glow like a defect.

    Args:
        maps: `(N, H, W)` float32 score maps of all test photos, or their `colour_sample`, `(N, S)`.
        labels: `(N,)` 0 or 1.

    Returns:
        `(low, high)`: the 95th percentile of the good photos' pixels (of all where no photo is
        good), and the 99.9th percentile of all pixels, which one stray pixel can not move.
    """
    good = maps[~np.asarray(labels).astype(bool)]
    return _percentile(good if good.size else maps, 95), _percentile(maps, 99.9)


def _percentile(maps: np.ndarray, percent: float) -> float:
    if not maps.size:
        return 0.0
    step = maps.size // _SAMPLES | 1
    return float(np.percentile(maps.reshape(-1)[::step], percent))


def colour_map(levels: np.ndarray) -> np.ndarray:
    """Colours of `(..., )` levels in [0, 1] as `(..., 3)` uint8 RGB; lighter is higher."""
    at = np.linspace(0, 1, len(_CONTROL))
    channels = [np.interp(levels, at, _CONTROL[:, c]) for c in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def overlay(
    image: np.ndarray, scores: np.ndarray, colours: tuple[float, float], *, dim: float = 0.65
) -> np.ndarray:
    """Lay the heat over a dimmed grey copy of the photo; what is normal stays bare photo.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        scores: `(H, W)` float.
        colours: `colour_range` of the category.
        dim: Brightness of the copy; 1 where the photo does not stand beside it.

    Returns:
        `(H, W, 3)` uint8 RGB.
    """
    low, high = colours
    levels = np.clip((scores.astype(np.float64) - low) / (high - low), 0, 1) if high > low else 0
    levels = np.broadcast_to(levels, scores.shape)
    grey = dim * (image @ np.array([0.299, 0.587, 0.114]))
    # Colour sets in softly, and never hides the photo entirely.
    weight = (0.85 * levels**0.75)[..., None]
    return np.round((1 - weight) * grey[..., None] + weight * colour_map(levels)).astype(np.uint8)


def outline(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Trace the border of a mask around the defect, not over it.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        mask: `(H, W)` bool.

    Returns:
        A copy with the pixels next to the mask in `OUTLINE`.
    """
    border = ndimage.binary_dilation(mask, np.ones((3, 3), bool)) & ~mask
    return np.where(border[..., None], OUTLINE, image)
