"""The defects that DRAEM learns from: textures laid over photos where Perlin noise is high.

All is drawn by an image's key, so a seed gives the same defects on any number of devices. Masks,
blending and chances are those of the authors' code (VitjanZ/DRAEM, data_loader.py); noise is
computed at turned positions, where that code turns an image of it. Textures are photos of other
things, or generated: colours with Perlin noise of their own (docs/from_pixels.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.core import Array

SCALES = 6
"""Noise has 1, 2, 4, ... 32 cells along each axis of the photo."""
THRESHOLD = 0.5
"""Of the noise: a defect is where it is higher."""
DEFECTIVE = 0.5
"""Share of photos that get a defect."""
MOST_SEEN_THROUGH = 0.8
"""How much of the photo is at most left where the defect is."""
TEXTURE_CELLS = (4, 8, 16, 32)
"""Of a generated texture, along each axis; half its contrast has cells of half that size."""
CHANGED = 3
"""Changes that each texture goes through."""


def perlin(angles: Array, y: Array, x: Array) -> Array:
    """Perlin noise, about -1 to 1, at positions `y`, `x` `(...)` in cells.

    Args:
        angles: `(n + 1, m + 1)` directions of the gradients at the corners of the cells, radians.
        y: From 0 to less than n.
        x: From 0 to less than m.
    """
    row, column = jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)
    v, u = y - jnp.floor(y), x - jnp.floor(x)

    def ramp(down: int, right: int) -> Array:
        angle = angles[row + down, column + right]
        return jnp.cos(angle) * (v - down) + jnp.sin(angle) * (u - right)

    def between(a: Array, b: Array, t: Array) -> Array:
        return a + (b - a) * t**3 * (t * (6 * t - 15) + 10)

    left, right = (between(ramp(0, side), ramp(1, side), v) for side in (0, 1))
    return math.sqrt(2) * between(left, right, u)


def turned_positions(size: tuple[int, int], angle: Array) -> tuple[Array, Array, Array]:
    """Where the pixels of a photo `size`, turned by `angle` (radians) about its centre, come from.

    Returns:
        Rows and columns `(H, W)` within the photo, and whether they were in it before.
    """
    height, width = size
    middle = ((height - 1) / 2, (width - 1) / 2)
    down = jnp.arange(height, dtype=angle.dtype).reshape(-1, 1) - middle[0]
    right = jnp.arange(width, dtype=angle.dtype).reshape(1, -1) - middle[1]
    y = middle[0] + jnp.cos(angle) * down - jnp.sin(angle) * right
    x = middle[1] + jnp.sin(angle) * down + jnp.cos(angle) * right
    inside = (y >= 0) & (y <= height - 1) & (x >= 0) & (x <= width - 1)
    return jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1), inside


def turned(image: Array, angle: Array) -> Array:
    """Turn `(H, W, C)` by `angle` (radians), bilinearly; black where it was not."""
    height, width, _ = image.shape
    y, x, inside = turned_positions((height, width), angle)
    top, left = jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)
    bottom, right = jnp.minimum(top + 1, height - 1), jnp.minimum(left + 1, width - 1)
    v, u = (y - jnp.floor(y))[..., None], (x - jnp.floor(x))[..., None]
    upper = image[top, left] * (1 - u) + image[top, right] * u
    lower = image[bottom, left] * (1 - u) + image[bottom, right] * u
    return jnp.where(inside[..., None], upper * (1 - v) + lower * v, 0)


def _angle(rng: Array, most: float, dtype: Any) -> Array:
    """An angle of up to `most` degrees either way, in radians."""
    return jax.random.uniform(rng, (), dtype, -math.radians(most), math.radians(most))


def perlin_mask(rng: Array, size: tuple[int, int], *, dtype: Any = jnp.float32) -> Array:
    """Draw where a defect is, `(H, W)` bool: noise of drawn scales, turned, above `THRESHOLD`."""
    scale, directions, turn = jax.random.split(rng, 3)
    cells = 2 ** jax.random.randint(scale, (2,), 0, SCALES)
    corners = 2 ** (SCALES - 1) + 1
    angles = jax.random.uniform(directions, (corners, corners), dtype, 0, 2 * math.pi)
    y, x, inside = turned_positions(size, _angle(turn, 90, dtype))
    by = cells.astype(dtype)
    return inside & (perlin(angles, y * (by[0] / size[0]), x * (by[1] / size[1])) > THRESHOLD)


def generated_texture(rng: Array, size: tuple[int, int], *, dtype: Any = jnp.float32) -> Array:
    """Draw a texture `(H, W, 3)`, 0 to 1: a colour, and on each channel noise of two scales."""
    scale, colour, depth, directions = jax.random.split(rng, 4)
    cells = jax.random.choice(scale, jnp.asarray(TEXTURE_CELLS), (2,)).astype(dtype)
    corners = 2 * max(TEXTURE_CELLS) + 1
    angles = jax.random.uniform(directions, (3, 2, corners, corners), dtype, 0, 2 * math.pi)
    rows, columns = (jnp.arange(n, dtype=dtype) / n for n in size)
    y, x = jnp.meshgrid(rows * cells[0], columns * cells[1], indexing="ij")

    y, x = (jnp.stack([at, 2 * at]) for at in (y, x))
    both = jax.vmap(jax.vmap(perlin), in_axes=(0, None, None))(angles, y, x)
    noise = jnp.moveaxis(both[:, 0] + 0.5 * both[:, 1], 0, -1)
    ground = jax.random.uniform(colour, (1, 1, 3), dtype)
    return jnp.clip(ground + jax.random.uniform(depth, (), dtype) * noise, 0, 1)


def _gamma(x: Array, rng: Array) -> Array:
    # Black stays black; a root has no gradient there.
    by = jax.random.uniform(rng, (1, 1, 3), x.dtype, 0.5, 2)
    return jnp.where(x > 0, jnp.where(x > 0, x, 1) ** by, 0)


def _brightness(x: Array, rng: Array) -> Array:
    times, plus = jax.random.split(rng)
    by = jax.random.uniform(times, (), x.dtype, 0.8, 1.2)
    return jnp.clip(x * by + jax.random.uniform(plus, (), x.dtype, -30 / 255, 30 / 255), 0, 1)


def _solarise(x: Array, rng: Array) -> Array:
    whether, level = jax.random.split(rng)
    from_ = jax.random.uniform(level, (), x.dtype, 32 / 255, 128 / 255)
    return jnp.where((x >= from_) & jax.random.bernoulli(whether), 1 - x, x)


def _posterise(x: Array, rng: Array) -> Array:
    step = (2 ** jax.random.randint(rng, (), 0, 8)).astype(x.dtype)
    return jnp.floor(x * 255 / step) * step / 255


def _invert(x: Array, rng: Array) -> Array:
    del rng
    return 1 - x


def _stretch(x: Array, rng: Array) -> Array:
    del rng
    low, high = (f(x, axis=(0, 1), keepdims=True) for f in (jnp.min, jnp.max))
    return jnp.where(high > low, (x - low) / jnp.where(high > low, high - low, 1), x)


def _turn(x: Array, rng: Array) -> Array:
    return turned(x, _angle(rng, 45, x.dtype))


CHANGES = (_gamma, _brightness, _solarise, _posterise, _invert, _stretch, _turn)
"""Seven of the authors' ten: without sharpness, hue with saturation, and equalised histograms."""


def changed(texture: Array, rng: Array) -> Array:
    """Let a texture `(H, W, 3)`, 0 to 1, go through `CHANGED` of `CHANGES`, none twice."""
    order, rest = jax.random.split(rng)
    which = jax.random.permutation(order, len(CHANGES))[:CHANGED]

    def change(n: int, texture: Array) -> Array:
        # All are computed, as `switch` would of a batch; each by a key of its own.
        keys = jax.random.split(jax.random.fold_in(rest, n), len(CHANGES))
        return jnp.stack([f(texture, key) for f, key in zip(CHANGES, keys)])[which[n]]

    # A loop, not three copies of each, which take longer to compile.
    made: Array = jax.lax.fori_loop(0, CHANGED, change, texture)
    return made


def simulated(
    images: Array,
    rng: Array,
    element: Array,
    *,
    textures: Callable[[], np.ndarray] | None,
    turn_share: float,
) -> tuple[Array, Array, Array]:
    """Draw what a step sees of photos `(B, H, W, 3)`, 0 to 1.

    Args:
        images: The photos.
        rng: Key of the step.
        element: `(B,)` int32, places in the batch of all devices.
        textures: Gives textures `(N, H, W, 3)` uint8, when a step is compiled; None: generated.
        turn_share: Share of the photos that are turned, by up to 90 degrees.

    Returns:
        The photos, some turned; the same, some with a defect; `(B, H, W)` bool, where that is.
    """
    others = None if textures is None else jnp.asarray(textures())
    dtype, size = images.dtype, (images.shape[1], images.shape[2])

    def one(image: Array, place: Array) -> tuple[Array, Array, Array]:
        keys = jax.random.split(jax.random.fold_in(rng, place), 7)
        rotated = turned(image, _angle(keys[0], 90, dtype))
        image = jnp.where(jax.random.bernoulli(keys[1], turn_share), rotated, image)
        if others is None:
            texture = generated_texture(keys[2], size, dtype=dtype)
        else:
            texture = others[jax.random.randint(keys[2], (), 0, len(others))].astype(dtype) / 255
        texture = changed(texture, keys[3])
        mask = perlin_mask(keys[4], size, dtype=dtype) & jax.random.bernoulli(keys[5], DEFECTIVE)
        kept = jax.random.uniform(keys[6], (), dtype, 0, MOST_SEEN_THROUGH)
        return image, jnp.where(mask[..., None], kept * image + (1 - kept) * texture, image), mask

    found: tuple[Array, Array, Array] = jax.vmap(one)(images, element)
    return found
