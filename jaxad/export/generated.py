"""Made-up images, the same on every machine, and what a file says of their scores."""

from __future__ import annotations

from typing import Any

import numpy as np

FORMULA = (
    "uint8 of, modulo 256, for image i, row y, column x, channel c (integers, // rounds down): "
    "i=0: 128; i=1: (y + x)//4 + 40c; i=2: 96((y//16 xor x//16) and 1) + 50c + 30; "
    "i=3: 7y + 13x + yx//8 + 85c"
)
COUNT, POINTS = 4, 16
"""Images, and points of a map along each axis that are kept: row `j H // POINTS` and the like."""


def images(size: tuple[int, int]) -> np.ndarray:
    """The images of `FORMULA`, `(4, H, W, 3)` uint8."""
    y, x, c = np.ogrid[: size[0], : size[1], :3]
    flat = np.full((*size, 3), 128)
    every = [
        flat,
        (y + x) // 4 + 40 * c,
        96 * ((y // 16 ^ x // 16) & 1) + 50 * c + 30,
        7 * y + 13 * x + y * x // 8 + 85 * c,
    ]
    return np.stack([np.asarray(one % 256, np.uint8) for one in every])


def record(maps: Any, scores: Any) -> dict[str, Any]:
    """What a manifest keeps of their scores, `(4, H, W)` and `(4,)`."""
    return {
        "images": FORMULA,
        "map": points(np.asarray(maps)).tolist(),
        "image": np.asarray(scores).tolist(),
    }


def points(maps: np.ndarray) -> np.ndarray:
    """The points of maps that are kept, `(4, POINTS, POINTS)` or fewer of small maps."""
    rows, columns = (np.arange(min(n, POINTS)) * n // min(n, POINTS) for n in maps.shape[1:])
    return maps[:, rows][:, :, columns]


def difference(kept: dict[str, np.ndarray], maps: Any, scores: Any) -> float:
    """The largest difference of a point or an image score, in parts of their spread over all."""
    return max(
        relative(kept["map"], points(np.asarray(maps))),
        relative(kept["image"], np.asarray(scores)),
    )


def relative(before: np.ndarray, now: np.ndarray) -> float:
    """The largest difference, in parts of the spread (largest less smallest) of those before.

    What does not vary is measured by its size.
    """
    before, now = np.asarray(before, np.float64), np.asarray(now, np.float64)
    spread = np.ptp(before) or np.abs(before).max() or 1.0
    largest = np.abs(now - before).max()
    return float(largest / spread) if np.isfinite(now).all() else float("inf")
