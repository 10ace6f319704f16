"""State dicts and images from a seed: what the stored features of `ports/golden.py` were made of.

Shared by that program and by the test that compares with them, so neither stores weights. A state
is filled by array name, so exchanging two arrays of the same shape changes the features.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

SAMPLES = 160
"""Stored values of a feature map."""


def fill(shapes: Mapping[str, Sequence[int]], *, gain: float = 1.0) -> dict[str, np.ndarray]:
    """Fill a state dict of PyTorch or Keras names with plausible numbers, float32.

    Kernels (OIHW) are He-scaled and BatchNorm statistics are near the identity, so activations stay
    of the order of one through any depth.

    Args:
        shapes: Array name -> shape.
        gain: Factor on BatchNorm scales, so that a network with ReLU6 also meets its upper bound.
    """
    return {name: _array(name, tuple(shape), gain) for name, shape in shapes.items()}


def _array(name: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.asarray(1, np.int64)
    if len(shape) == 4:
        fan_in = shape[1] * shape[2] * shape[3]
        return rng.standard_normal(shape, np.float32) * np.float32((2 / fan_in) ** 0.5)
    if leaf in ("running_var", "moving_variance"):
        return rng.uniform(0.5, 2.0, shape).astype(np.float32)
    if leaf in ("weight", "gamma"):
        return (gain * rng.uniform(0.5, 1.0, shape)).astype(np.float32)
    return rng.normal(0.0, 0.2, shape).astype(np.float32)


def image(height: int, width: int) -> np.ndarray:
    """One uint8 RGB image `(1, height, width, 3)`, as random as can be."""
    rng = np.random.default_rng(height * 10_000 + width)
    return rng.integers(0, 256, (1, height, width, 3), dtype=np.uint8)


def sample(features: np.ndarray) -> np.ndarray:
    """Return `SAMPLES` values spread evenly over a feature map `(1, h, w, C)`."""
    flat = np.asarray(features).ravel()
    return flat[np.linspace(0, flat.size - 1, SAMPLES).astype(np.int64)]
