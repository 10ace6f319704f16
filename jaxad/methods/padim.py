"""PaDiM (Defard et al., 2020): a Gaussian at every position, and how far from it a patch is.

Levels are brought to the grid of the first one by nearest neighbours and put side by side; of their
channels some are drawn. Nothing is trained: mean and covariance of each position's training patches
are all that is learnt. Choices that the paper leaves open are those of its best known code
(xiahaifeng1995/PaDiM-Anomaly-Detection-Localization-master).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.core import (
    Array,
    Features,
    Images,
    InputError,
    Method,
    Scores,
    Variables,
    pick,
    without_steps,
)
from jaxad.memory import free_memory
from jaxad.ops.precision import EXACT
from jaxad.ops.resample import resize_map
from jaxad.parallel import free_device_memory

REGULARISATION = 0.01
"""Added to the variances."""


def side_by_side(features: Features, levels: Sequence[str], dimensions: Array) -> Array:
    """Some channels of all levels on the grid of the first one, `(B, h, w, d)`.

    Args:
        features: Maps `(B, h_l, w_l, C_l)`.
        levels: Their names.
        dimensions: `(d,)` int32, numbers of channels, counted through the levels.
    """
    maps = pick(features, levels)
    _, h, w, _ = maps[0].shape
    parts = []
    for x in maps:
        rows, columns = (np.arange(n) * own // n for n, own in zip((h, w), x.shape[1:3]))
        parts.append(x[:, rows][:, :, columns])
    return jnp.concatenate(parts, axis=-1)[..., dimensions]


def padim(
    levels: Sequence[str], *, dimensions: int = 100, full: bool = True, smoothing: float = 4.0
) -> Method:
    """Build PaDiM.

    Args:
        levels: Names of the features, the one whose grid counts first.
        dimensions: Channels that are drawn of all; 0: all.
        full: Whether covariances count, or variances alone.
        smoothing: Standard deviation of the Gaussian on the map, in pixels.

    Returns:
        A `Method` without steps. `variables["gaussian"]` has "mean" `(h, w, d)` and "whitening",
        L⁻ᵀ of the covariance LLᵀ, `(h, w, d, d)`, or one over the standard deviation `(h, w, d)`;
        `variables["drawn"]["dimensions"]` the channels. The image score is the map's maximum.
    """

    def chosen(variables: Variables, features: Features) -> Array:
        return side_by_side(features, levels, variables["drawn"]["dimensions"])

    def init(rng: Array, features: Features) -> Variables:
        maps = pick(features, levels)
        channels, (_, h, w, _) = sum(x.shape[-1] for x in maps), maps[0].shape
        count = dimensions or channels
        if count > channels:
            raise InputError(f"method.dimensions is {count}: there are {channels} channels")
        drawn = jnp.sort(jax.random.permutation(rng, channels)[:count]).astype(jnp.int32)
        gaussian = {
            "mean": jnp.zeros((h, w, count), maps[0].dtype),
            "whitening": jnp.ones((h, w, *[count] * (2 if full else 1)), maps[0].dtype),
        }
        return {"gaussian": gaussian, "drawn": {"dimensions": drawn}}

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        mean, whitening = (variables["gaussian"][name] for name in ("mean", "whitening"))
        x = chosen(variables, features) - mean[None]
        with jax.named_scope("mahalanobis"):
            if full:  # no einsum, which would have all matrices transposed first
                x = jnp.matmul(x.transpose(1, 2, 0, 3), whitening, precision=EXACT)
                x = x.transpose(2, 0, 1, 3)
            else:
                x = x * whitening[None]
            grid = jnp.sqrt(jnp.sum(jnp.square(x), axis=-1))
        map_ = resize_map(grid, size=size, sigma=smoothing)
        return Scores(map_, jnp.max(map_, axis=(1, 2)))

    choose = jax.jit(chosen)

    @jax.jit
    def gaussian(x: Array) -> tuple[Array, Array]:
        """Mean and whitening of one row of positions, `(n, w, d)`."""
        mean = jnp.mean(x, axis=0)
        x = (x - mean[None]) / (x.shape[0] - 1) ** 0.5
        if not full:
            return mean, jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=0) + REGULARISATION)
        unit = jnp.eye(x.shape[-1], dtype=x.dtype)[None]
        covariance = jnp.einsum("nwi,nwj->wij", x, x, precision=EXACT) + REGULARISATION * unit
        lower = jnp.linalg.cholesky(covariance)
        units = jnp.broadcast_to(unit, lower.shape)
        return mean, jax.lax.linalg.triangular_solve(lower, units, lower=True, transpose_a=True)

    def finalize(variables: Variables, images: Images) -> Variables:
        count, shape = len(images), variables["gaussian"]["mean"].shape
        if count < 2:
            raise InputError("one photo has no spread: PaDiM needs two at least")
        kept = 4 * variables["gaussian"]["whitening"].size
        need, free = 4 * count * int(np.prod(shape)) + 2 * kept, free_memory()
        free = min(free, free_device_memory() or free)
        told = (
            f"PaDiM: {shape[0]} x {shape[1]} Gaussians of {shape[2]} numbers, {kept / 1e9:.3f} GB"
        )
        if need > free:
            raise InputError(
                f"{told}, take {need / 1e9:.2f} GB to find, and {free / 1e9:.2f} GB of memory are "
                "free: set fewer method.dimensions, or method.full=False"
            )
        print(f"{told}; finding them takes {need / 1e9:.2f} GB", file=sys.stderr)
        x = np.empty((count, *shape), np.float32)
        for n, (features, _) in enumerate(images):
            x[n] = choose(variables, features)[0]
        # Row by row: one program, and the device holds one row.
        found = [jax.device_get(gaussian(x[:, row])) for row in range(shape[0])]
        mean, whitening = (jnp.asarray(np.stack(values)) for values in zip(*found))
        return {**variables, "gaussian": {"mean": mean, "whitening": whitening}}

    return without_steps(init, score, finalize)
