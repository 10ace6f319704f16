"""PatchCore (Roth et al., CVPR 2022): how far is a patch from all patches of normal photos?

The patch features of all training photos are thinned out to a coreset, the memory bank. A patch's
score is its distance to the nearest member. Nothing is trained. What the authors' code
(amazon-science/patchcore-inspection) and anomalib do differently are arguments.
"""

from __future__ import annotations

import sys

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
from jaxad.methods.coreset import from_mean, from_row, k_centre, projection
from jaxad.methods.neighbours import crowding, nearest, prepare
from jaxad.ops.pool import top_share_mean
from jaxad.ops.precision import EXACT
from jaxad.ops.resample import resize_map
from jaxad.parallel import free_device_memory

SAMPLERS = ("reference", "greedy", "random")
STARTS = 10
"""Vectors from whose mean distance the reference's sampler begins."""


def patchcore(
    feature: str,
    *,
    sampler: str = "reference",
    share: float = 0.1,
    narrow: int = 128,
    squared: bool = True,
    neighbours: int = 1,
    reweighting: int = 0,
    top_share: float = 0.0,
    smoothing: float = 4.0,
    weight: str = "",
) -> Method:
    """Build PatchCore on patch features.

    Args:
        feature: Name of the patch features `(B, h, w, C)`, see `simplenet.patch_features`.
        sampler: How the bank is chosen of all patches: greedy k-centre from ten random patches as
            the "reference" has it, the textbook's "greedy" from one random patch, or "random".
        share: Of the patches, in the bank.
        narrow: Numbers that patches are projected to while the bank is chosen; 0: not.
        squared: Whether the squared distance is the score, as in the reference.
        neighbours: Members whose mean distance is a patch's score.
        reweighting: b of `neighbours.crowding`, which the image score is multiplied by; 0: not.
        top_share: Share of the patches whose mean is the image score; 0: the highest.
        smoothing: Standard deviation of the Gaussian on the map, in pixels.
        weight: Name of features `(B, h, w, 1)` that patches' scores are multiplied by; "": none.

    Returns:
        A `Method` without steps. Its `variables["bank"]` has "members" `(N, C)` float32, and of
        each the "photo" `(N,)` int32 that it is of, as training counts them;
        `variables["drawn"]["seed"]` is what its bank was drawn with.

    Raises:
        InputError: An unknown sampler, or re-weighting without a highest patch.
    """
    if sampler not in SAMPLERS:
        raise InputError(f"method.sampler is {sampler!r}: use {' or '.join(SAMPLERS)}")
    if reweighting and top_share:
        raise InputError(
            f"method.reweighting is {reweighting}, of the highest patch, and method.top_share "
            f"{top_share} takes the mean of several: set one of them to 0"
        )

    def patches(features: Features) -> Array:
        return pick(features, [feature])[0]

    def init(rng: Array, features: Features) -> Variables:
        x = patches(features)
        seed = jax.random.randint(rng, (), 0, jnp.iinfo(jnp.int32).max, jnp.int32)
        bank = {"members": jnp.zeros((1, x.shape[-1]), x.dtype), "photo": jnp.zeros(1, jnp.int32)}
        return {"bank": bank, "drawn": {"seed": seed}}

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        bank = prepare(variables["bank"])

        def judge(given: tuple[Array, Array | None]) -> tuple[Array, Array]:
            """The scores of one image's patches, and its own."""
            x, by = given
            h, w, width = x.shape
            x = x.reshape(h * w, width)
            distance, member = nearest(x, bank, k=neighbours)
            distance = distance if squared else jnp.sqrt(distance)
            grid = jnp.mean(distance, axis=1)
            grid = grid if by is None else grid * by.reshape(h * w)
            image = top_share_mean(grid.reshape(1, h, w), top_share)[0]
            if reweighting:
                i = jnp.argmax(grid)
                image = image * crowding(x[i], member[i, 0], bank, neighbours=reweighting)
            return grid.reshape(h, w), image

        # One after the other: their number may be symbolic, and one is enough for a product.
        by = pick(features, [weight])[0] if weight else None
        grid, image = jax.lax.map(judge, (patches(features), by))
        return Scores(resize_map(grid, size=size, sigma=smoothing), image)

    @jax.jit
    def projected(x: Array, matrix: Array) -> Array:
        return jnp.matmul(x.reshape(-1, x.shape[-1]), matrix, precision=EXACT)

    def choose(
        seed: int, images: Images, width: int, total: int, count: int, bank: np.ndarray
    ) -> np.ndarray:
        """Numbers of the patches that are to be members, with those that `bank` `(N, C)` has."""
        if sampler == "random":
            return np.random.default_rng([seed, len(bank)]).choice(total, count, replace=False)
        drawing, starting = jax.random.split(jax.random.key(seed))
        matrix = projection(drawing, width, narrow)
        rows = np.empty((total, matrix.shape[1]), np.float32)
        each = total // len(images)
        for n, (found, _) in enumerate(images):
            rows[n * each : (n + 1) * each] = projected(patches(found), matrix)
        if len(bank):
            there = prepare({"members": projected(jnp.asarray(bank), matrix)})
            parts = rows.reshape(len(images), each, -1)
            closest = np.concatenate([jax.jit(nearest)(part, there)[0][:, 0] for part in parts])
            return k_centre(jnp.asarray(rows), count, closest=jnp.asarray(closest))
        x = jnp.asarray(rows)
        del rows  # never held more than twice
        if sampler == "greedy":
            first = int(jax.random.randint(starting, (), 0, total))
            return k_centre(x, count, closest=from_row(total, first))
        starts = jax.random.choice(starting, total, (min(STARTS, total),), replace=False)
        return k_centre(x, count, closest=jax.jit(from_mean)(x, starts))

    fewest = max(neighbours, reweighting, 1)

    def check_enough(count: int, of: str = "") -> None:
        if count < fewest:
            raise InputError(
                f"the bank has {count}{of} patches, fewer than the {fewest} neighbours that are "
                "asked for: give more photos, or a larger method.share"
            )

    def room(count: int, total: int, width: int) -> None:
        """Say that `count` of `total` patches will be members, and what memory that takes.

        Raises:
            InputError: More than there is.
        """
        numbers = 0 if sampler == "random" else (narrow or width) + 3
        choosing, member = 4 * total * numbers * 2, 4 * width * 2  # once on the host, once more
        need, free = choosing + count * member, free_device_memory() or free_memory()
        told = f"PatchCore: {count} of {total} patches of {width} numbers are kept"
        if need > free:
            fits = (free - choosing) / (total * member)
            mend = (
                f"method.share={fits:.2g} would fit"
                if fits * total >= fewest
                else "choose them by method.sampler='random', or project to fewer numbers by "
                "method.projection"
            )
            raise InputError(
                f"{told}, which takes {need / 1e9:.2f} GB, and {free / 1e9:.2f} GB of memory are "
                f"free: {mend}"
            )
        print(
            f"{told}: {count * width * 4 / 1e9:.3f} GB; choosing them takes {need / 1e9:.2f} GB of "
            f"{free / 1e9:.2f} GB",
            file=sys.stderr,
        )

    def chosen_of(
        images: Images, seed: int, count: int, bank: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """So many patches of the images as members beside `bank`, and the image that each is of."""
        _, h, w, width = patches(next(iter(images))[0]).shape
        total = len(images) * h * w
        room(count, total, width)
        chosen = np.sort(choose(seed, images, width, total, count, bank))
        members = np.empty((count, width), np.float32)
        ends = np.searchsorted(chosen, h * w * np.arange(len(images) + 1))
        for n, (found, _) in enumerate(images):
            own = slice(ends[n], ends[n + 1])
            x = np.asarray(patches(found)).reshape(h * w, width)
            members[own] = x[chosen[own] - n * h * w]
        return members, (chosen // (h * w)).astype(np.int32)

    def finalize(variables: Variables, images: Images) -> Variables:
        nothing = {"members": jnp.zeros((0, 0)), "photo": jnp.zeros(0, jnp.int32)}
        return update({**variables, "bank": nothing}, images, stay=np.ones(0, bool))

    def update(variables: Variables, images: Images, *, stay: np.ndarray) -> Variables:
        """See `Method.update`: members of images that stay do, and new ones keep the share."""
        members, photo = (np.asarray(variables["bank"][name]) for name in ("members", "photo"))
        kept = stay[photo]
        members, photo = members[kept], (np.cumsum(stay, dtype=np.int32) - 1)[photo[kept]]
        if len(images):
            _, h, w, _ = patches(next(iter(images))[0]).shape
            new, known = len(images) * h * w, int(stay.sum())
            total = new + known * h * w
            count = min(max(1, int(share * total)) - len(members), new)
            check_enough(count + len(members), f" of {total}")
            if count > 0:
                seed = int(variables["drawn"]["seed"])
                added, own = chosen_of(images, seed, count, members)
                members = np.concatenate([members, added]) if len(members) else added
                photo = np.concatenate([photo, own + known])
        check_enough(len(members))
        bank = {"members": jnp.asarray(members), "photo": jnp.asarray(photo)}
        return {**variables, "bank": bank}

    def fold(variables: Variables) -> Variables:
        return {**variables, "bank": prepare(variables["bank"])}

    return without_steps(init, score, finalize, grows=("bank",), fold=fold, update=update)
