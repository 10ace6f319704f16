"""What reference codes do to maps and masks before they measure, each as a function of one photo.

`jaxad.metrics.audit` puts the figures side by side and names who does which.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

CROP = 7 / 8
"""Side of the centre crop: 224 of 256, 288 of 329, 392 of 448."""
SIGMA = 4.0
"""Pixels, of the Gaussian of PaDiM, SPADE, PatchCore, RD4AD, SimpleNet."""
POOL = 16
"""Pixels a side, of UniAD's pooling."""


def top_mean(scores: np.ndarray, share: float) -> float:
    """Mean of the highest share of a map, one pixel at least (Dinomaly, AnomalyDINO: 1 %)."""
    count = max(1, round(share * scores.size))
    return float(np.partition(scores.reshape(-1), -count)[-count:].mean(dtype=np.float64))


def smoothed_maximum(scores: np.ndarray, sigma: float = SIGMA) -> float:
    """Maximum after scipy's Gaussian (cut at 4 sigma, border mirrored), as RD4AD has it."""
    return float(ndimage.gaussian_filter(scores, sigma).max())


def pooled_maximum(scores: np.ndarray, side: int = POOL) -> float | None:
    """Maximum of the means of all squares within the map (UniAD, ADer); None: it is too small."""
    if min(scores.shape) < side:
        return None
    sums = np.pad(scores.astype(np.float64), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    inner = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return float(inner.max() / side**2)


def centre(pixels: np.ndarray, share: float = CROP) -> np.ndarray:
    """The centre `(h, w)` of a map or mask `(H, W)`, sides rounded."""
    height, width = (max(1, round(share * side)) for side in pixels.shape)
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]
