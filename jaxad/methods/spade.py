"""SPADE (Cohen and Hoshen, 2020): which normal photos look most alike, and what has none of them?

Every training photo is kept, as the mean of its deepest features and as its feature maps. A photo's
score is its mean distance to the K photos that are nearest by these means; a position's is the
distance to the nearest of all positions of these K photos. Nothing is trained, nothing is drawn.

Two slips of the best known code (byungjae89/SPADE-pytorch) are left out: it goes through positions
in hundreds and drops what remains of them, and adds 1e-6 to every difference.
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
from jaxad.methods.neighbours import nearest, prepare
from jaxad.ops.normalise import l2_normalise, signed_root
from jaxad.ops.resample import resize_map
from jaxad.parallel import free_device_memory

PHOTOS = "photos"
"""In the gallery: the photos' means; their maps are "level1" and so on."""


def spade(
    levels: Sequence[str],
    *,
    pooled: str,
    neighbours: int = 5,
    cosine: bool = False,
    root: bool = False,
    smoothing: float = 4.0,
) -> Method:
    """Build SPADE; without levels it is the plain judge, nearest neighbours of whole photos.

    Args:
        levels: Names of the features that the map is the mean of. None: the map is the image score,
            everywhere.
        pooled: Name of the features whose mean over positions tells which photos are near.
        neighbours: K.
        cosine: Whether distances are 1 − cosine instead of Euclidean.
        root: Whether photos are compared by the square roots of their means (ours; for what leaves
            a ReLU, such as EfficientNet's `head`).
        smoothing: Standard deviation of the Gaussian on the map, in pixels.

    Returns:
        A `Method` without steps. Its `variables["gallery"]` has "photos" `(N, C)` and "level1" to
        the last one's `(N, h, w, C)`, float32; of length 1 where cosines count.
    """

    def entries(features: Features) -> Variables:
        """What the gallery has, or is searched for, of each image."""
        deepest, *maps = pick(features, [pooled, *levels])
        mean = jnp.mean(deepest, axis=(1, 2))
        found = {PHOTOS: signed_root(mean) if root else mean}
        found |= {f"level{n}": x for n, x in enumerate(maps, start=1)}
        return {name: l2_normalise(x) if cosine else x for name, x in found.items()}

    def init(rng: Array, features: Features) -> Variables:
        del rng
        return {"gallery": entries(features)}

    def distance(squares: Array) -> Array:
        return squares / 2 if cosine else jnp.sqrt(squares)

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        gallery = variables["gallery"]
        k = min(neighbours, gallery[PHOTOS].shape[0])

        def judge(own: Variables) -> tuple[Array, list[Array]]:
            """One image's score, and the distances of its positions at each level."""
            apart = jnp.sum(jnp.square(gallery[PHOTOS] - own[PHOTOS][None]), axis=1)
            away, at = jax.lax.top_k(-apart, k)
            grids = []
            for n in range(1, len(levels) + 1):
                x, near = own[f"level{n}"], gallery[f"level{n}"][at]
                h, w, width = x.shape
                bank = prepare({"members": near.reshape(-1, width)})
                squares, _ = nearest(x.reshape(h * w, width), bank)
                grids.append(distance(squares).reshape(h, w))
            return jnp.mean(distance(-away)), grids

        # One after the other: their number may be symbolic, and each has photos of its own.
        image, grids = jax.lax.map(judge, entries(features))
        if not levels:
            return Scores(jnp.broadcast_to(image[:, None, None], (*image.shape, *size)), image)
        maps = [resize_map(grid, size=size, sigma=smoothing) for grid in grids]
        return Scores(jnp.mean(jnp.stack(maps), axis=0), image)

    def room(count: int, like: Variables) -> None:
        """See that so many photos can be kept; says what memory that takes.

        Raises:
            InputError: They can not, or are fewer than neighbours.
        """
        if count < neighbours:
            raise InputError(
                f"there are {count} photos, fewer than the {neighbours} neighbours that are asked "
                "for: give more photos, or fewer method.neighbours"
            )
        sizes = [4 * leaf.size for leaf in like.values()]
        each, free = sum(sizes) + max(sizes), free_memory()  # of one level a copy
        free = min(free, free_device_memory() or free)
        told = f"SPADE: {count} photos are kept, {count * sum(sizes) / 1e9:.3f} GB of features"
        if not levels:
            told += " (by these alone, without levels, the map is the image score, everywhere)"
        takes = f"{count * each / 1e9:.2f} GB, and {free / 1e9:.2f} GB of memory are free"
        if count * each > free:
            raise InputError(
                f"{told}; this takes {takes}: name fewer or deeper method.levels, or give "
                f"{free // each} photos"
            )
        print(f"{told}; this takes {takes}", file=sys.stderr)

    entries_of = jax.jit(entries)

    def finalize(variables: Variables, images: Images) -> Variables:
        like = variables["gallery"]
        room(len(images), like)
        shapes = {name: (len(images), *leaf.shape[1:]) for name, leaf in like.items()}
        rows = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
        for n, (features, _) in enumerate(images):
            for name, found in entries_of(features).items():
                rows[name][n] = found[0]
        return {**variables, "gallery": {name: jnp.asarray(rows.pop(name)) for name in shapes}}

    return without_steps(init, score, finalize, grows=("gallery",))
