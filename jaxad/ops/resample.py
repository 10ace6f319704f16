"""Resizing and smoothing of maps as one small matrix per axis.

Both are linear and separable, so `Gaussian ∘ upsampling` of a `(h, w)` map is `R @ map @ C.T` with
an `(H, h)` and a `(W, w)` matrix made once, in float64, when the program is traced.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxad.core import Array
from jaxad.ops.precision import EXACT

Matrix = np.ndarray[Any, np.dtype[np.float64]]


def bilinear_matrix(size_in: int, size_out: int, *, align_corners: bool = False) -> Matrix:
    """Make the `(size_out, size_in)` matrix of bilinear interpolation, without antialiasing.

    Equal to torch's `interpolate(mode="bilinear")` for either value of `align_corners`; False means
    half-pixel centres, clamped at the border.
    """
    out = np.arange(size_out, dtype=np.float64)
    if align_corners:
        position = out * (size_in - 1) / max(size_out - 1, 1)
    else:
        position = np.clip((out + 0.5) * size_in / size_out - 0.5, 0, size_in - 1)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, size_in - 1)
    share = position - low
    matrix = np.zeros((size_out, size_in))
    rows = np.arange(size_out)
    np.add.at(matrix, (rows, low), 1 - share)
    np.add.at(matrix, (rows, high), share)
    return matrix


def bicubic_matrix(
    size_in: int, size_out: int, *, scale: float | None = None, antialias: bool = False
) -> Matrix:
    """Make the `(size_out, size_in)` matrix of bicubic interpolation with half-pixel centres.

    Equal to torch's `interpolate(mode="bicubic", align_corners=False)`: its filter has the
    parameter -0.75 and repeats the border; antialiased it has -0.5, is as wide as the output's
    pixels and is cut off at the border.

    Args:
        size_in: Length of the axis.
        size_out: Length of the result.
        scale: Output pixels per input pixel; None: `size_out / size_in`.
        antialias: See above.
    """
    step = size_in / size_out if scale is None else 1 / scale
    centre = (np.arange(size_out, dtype=np.float64) + 0.5) * step - 0.5
    width = max(step, 1.0) if antialias else 1.0
    reach = int(np.ceil(2 * width)) + 1
    source = np.floor(centre).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    taps = _cubic((source - centre[:, None]) / width, -0.5 if antialias else -0.75)
    if antialias:
        taps = np.where((source >= 0) & (source < size_in), taps, 0)
        taps /= taps.sum(axis=1, keepdims=True)
    matrix = np.zeros((size_out, size_in))
    rows = np.arange(size_out)[:, None]
    np.add.at(matrix, (rows, np.clip(source, 0, size_in - 1)), taps)
    return matrix


def _cubic(distance: Matrix, a: float) -> Matrix:
    """The cubic convolution filter of Keys (1981)."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def gaussian_matrix(size: int, sigma: float, *, truncate: float = 4.0) -> Matrix:
    """Make the `(size, size)` matrix of `scipy.ndimage.gaussian_filter1d(mode="reflect")`.

    Args:
        size: Length of the axis in pixels.
        sigma: Standard deviation in pixels; 0 gives the identity.
        truncate: Radius of the kernel in standard deviations.
    """
    if sigma == 0:
        return np.eye(size)
    radius = int(truncate * sigma + 0.5)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    source = np.arange(size)[:, None] + np.arange(-radius, radius + 1)[None, :]
    # The half-sample mirror (d c b a | a b c d | d c b a) has period 2 * size.
    source = source % (2 * size)
    source = np.where(source >= size, 2 * size - 1 - source, source)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], source), taps[None, :])
    return matrix


def resize(x: Array, *, size: tuple[int, int], align_corners: bool = False) -> Array:
    """Resize feature maps `(B, h, w, C)` bilinearly to `(B, H, W, C)`, without antialiasing.

    Args:
        x: Feature maps.
        size: `(H, W)` of the result.
        align_corners: See `bilinear_matrix`.
    """
    if x.shape[1:3] == size:
        return x
    rows, columns = (
        jnp.asarray(bilinear_matrix(n_in, n_out, align_corners=align_corners), x.dtype)
        for n_in, n_out in zip(x.shape[1:3], size)
    )
    return jnp.einsum("Hh,bhwc,Ww->bHWc", rows, x, columns, precision=EXACT)


def resize_map(
    x: Array,
    *,
    size: tuple[int, int],
    sigma: float = 0.0,
    truncate: float = 4.0,
    align_corners: bool = False,
) -> Array:
    """Resize `(B, h, w)` maps bilinearly to `(B, H, W)` and smooth them by a Gaussian.

    Args:
        x: Maps, `(B, h, w)` float.
        size: `(H, W)` of the result in pixels.
        sigma: Standard deviation of the Gaussian in output pixels; 0 means none.
        truncate: See `gaussian_matrix`.
        align_corners: See `bilinear_matrix`.
    """
    rows, columns = (
        gaussian_matrix(n_out, sigma, truncate=truncate)
        @ bilinear_matrix(n_in, n_out, align_corners=align_corners)
        for n_in, n_out in zip(x.shape[1:], size)
    )
    return jnp.einsum(
        "Hh,bhw,Ww->bHW",
        jnp.asarray(rows, x.dtype),
        x,
        jnp.asarray(columns, x.dtype),
        precision=EXACT,
    )
