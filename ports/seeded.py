"""State dicts and images from a seed: what the stored features of `ports/golden.py` were made of.

Shared by that program and by `ports/parity.py`, which compares with them, so neither stores
weights. A state is filled by array name, so exchanging two arrays of the same shape changes the
features.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

SAMPLES = 64
"""Stored values of a feature map."""


def fill(shapes: Mapping[str, Sequence[int]], *, gain: float = 1.0) -> dict[str, np.ndarray]:
    """Fill a state dict of PyTorch or Keras names with plausible numbers, float32.

    Kernels (OIHW; HWIO or HWC1 where their name says "kernel") are He-scaled, weights of linear
    layers keep the scale, and BatchNorm statistics are near the identity, so activations stay of
    the order of one through any depth.

    Args:
        shapes: Array name -> shape.
        gain: Factor on BatchNorm scales: over one where activations would fade (swish,
            squeeze-excite), or so that a network with ReLU6 also meets its upper bound.
    """
    return {name: _array(name, tuple(shape), gain) for name, shape in shapes.items()}


def _array(name: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = re.split(r"[./]", name)[-1].removesuffix(":0")
    if leaf == "num_batches_tracked":
        return np.asarray(1, np.int64)
    if len(shape) == 4:
        if leaf.endswith("kernel"):
            fan_in = shape[0] * shape[1] * (shape[2] if shape[3] > 1 else 1)
        else:
            fan_in = shape[1] * shape[2] * shape[3]
        scaled = _noise() * np.float32((2 / fan_in) ** 0.5)
        return np.resize(np.roll(scaled, rng.integers(scaled.size)), shape)
    if len(shape) == 2 and leaf == "weight":
        scaled = _noise() * np.float32(shape[1] ** -0.5)
        return np.resize(np.roll(scaled, rng.integers(scaled.size)), shape)
    if leaf in ("running_var", "moving_variance"):
        return rng.uniform(0.5, 2.0, shape).astype(np.float32)
    if leaf in ("weight", "gamma"):
        return (gain * rng.uniform(0.5, 1.0, shape)).astype(np.float32)
    return rng.normal(0.0, 0.2, shape).astype(np.float32)


@functools.cache
def _noise() -> np.ndarray:
    """Normal numbers that all kernels are cut from: fresh ones take seconds for a large network.

    Their count is prime, so no two rows of a kernel begin at the same place.
    """
    return np.random.default_rng(0).standard_normal(131_071, np.float32)


def image(height: int, width: int) -> np.ndarray:
    """One uint8 RGB image `(1, height, width, 3)`, as random as can be."""
    rng = np.random.default_rng(height * 10_000 + width)
    return rng.integers(0, 256, (1, height, width, 3), dtype=np.uint8)


def sample(features: np.ndarray) -> np.ndarray:
    """Return `SAMPLES` values spread evenly over a feature map `(1, h, w, C)`."""
    flat = np.asarray(features).ravel()
    return flat[np.linspace(0, flat.size - 1, SAMPLES).astype(np.int64)]
