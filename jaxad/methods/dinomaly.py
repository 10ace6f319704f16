"""Dinomaly (Guo et al., CVPR 2025): rebuild what a transformer sees, as loosely as can be.

The middle blocks of a frozen vision transformer, averaged, go through a bottleneck whose dropout is
all the noise there is, and through a decoder with as many blocks and linear attention. Its blocks
rebuild the encoder's in groups, averages of four, not one by one, and positions that are rebuilt
well already hardly teach it. It never learns to rebuild defects: 1 - cosine is the score.

The recipe is the authors' code (guojiajeremy/Dinomaly, dinomaly_mvtec_uni.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from jaxad.core import Array, Aux, Features, InputError, Method, Scores, Variables, pick
from jaxad.methods.dinomaly_network import Decoder
from jaxad.methods.rd4ad import cosine
from jaxad.methods.stable_adamw import stable_adamw, warm_cosine
from jaxad.ops.initialise import drawn, uniform
from jaxad.ops.noise import elements, fold_in_name
from jaxad.ops.pool import top_share_mean
from jaxad.ops.resample import resize_map

SPREAD, LIMIT = 0.01, 3.0
"""Of what kernels start with: standard deviation, and where the normal distribution is cut off."""
TAPS = 0.5
"""Of the Gaussian's radius to its standard deviation: 5 pixels at 4."""


def softened(
    x: Array, distance: Array, *, share: Array, factor: float, axis_name: str | None
) -> Array:
    """Return `x`, whose gradient is multiplied by `factor` where the distance is not large.

    Args:
        x: `(B, h, w, C)`.
        distance: `(B, h, w)`.
        share: Of all positions of the batch, those whose gradient is softened; a scalar.
        factor: See above.
        axis_name: Mapped axis over which the batch lies, None outside of pmap.
    """
    every = distance if axis_name is None else jax.lax.all_gather(distance, axis_name)
    every = jnp.sort(every.ravel())
    kept = (every.size * (1 - share)).astype(jnp.int32)
    limit = every[every.size - jnp.clip(kept, 1, every.size)]
    by = jnp.where(distance < limit.reshape(1, 1, 1), factor, 1.0).astype(x.dtype)
    still = jax.lax.stop_gradient(x)
    return still + jax.lax.stop_gradient(by)[..., None] * (x - still)


def dinomaly(
    groups: Sequence[str],
    others: str,
    *,
    blocks: int = 8,
    heads: int = 12,
    dropout: float = 0.2,
    easy: float = 0.1,
    easy_share: float = 0.9,
    easy_steps: int = 1000,
    learning_rate: tuple[float, float] = (2e-3, 2e-4),
    warmup: int = 100,
    weight_decay: float = 1e-4,
    clip: float = 0.1,
    top_share: float = 0.01,
    smoothing: float = 4.0,
    axis_name: str | None = None,
) -> Method:
    """Build Dinomaly.

    Args:
        groups: Names of the features that are rebuilt, `(B, h, w, C)`: averages of as many blocks
            each, from the first block on.
        others: Name of the tokens that belong to no patch, `(B, 1, 1, k C)`, averaged over all
            blocks; they go through the decoder with the rest, and are not rebuilt.
        blocks: Of the decoder; its last ones rebuild the first group.
        heads: Of every attention.
        dropout: Share of values that the bottleneck leaves out in training.
        easy: What gradients of positions that are rebuilt well are multiplied by.
        easy_share: Share of a batch's positions that are taken for such, ...
        easy_steps: ... reached, from none, after so many steps; 0: at once.
        learning_rate: Of StableAdamW with AMSGrad: the peak, and what it ends with.
        warmup: Steps in which it rises to the peak, see `warm_cosine`.
        weight_decay: Decoupled.
        clip: Largest global norm of the gradient; 0: any.
        top_share: Of the map, whose mean is the image score.
        smoothing: Standard deviation of the Gaussian on the map, in pixels. As in the code it is
            cut off after half of that; the photo goes on beyond its border mirrored (there: as 0).
        axis_name: For `easy_share` over devices.

    Returns:
        A `Method` whose variables are `params`, and the number of steps that were done.

    Raises:
        InputError: Blocks do not divide into the groups, or channels into heads.
    """
    if not groups or blocks % len(groups):
        raise InputError(
            f"method.groups is {len(groups)}: the {blocks} levels do not divide into so many"
        )
    decoder = Decoder(heads, blocks, dropout)

    def tokens(features: Features) -> tuple[list[Array], Array]:
        """The groups, and what the decoder is given, `(B, k + h w, C)`."""
        E = pick(features, groups)
        batch, channels = E[0].shape[0], E[0].shape[-1]
        if channels % heads:
            raise InputError(f"method.heads is {heads}: {channels} channels do not divide into it")
        first = pick(features, [others])[0].reshape(batch, -1, channels)
        mean = jnp.mean(jnp.stack(E), axis=0).reshape(batch, -1, channels)
        return E, jnp.concatenate([first, mean], axis=1)

    def rebuilt(
        variables: Variables, features: Features, keys: Array | None = None
    ) -> list[tuple[Array, Array]]:
        """Each group and what is made of it, computed in the type of the parameters."""
        E, x = tokens(features)
        params = variables["params"]
        dtype = params["bottleneck"]["fc1"]["kernel"].dtype
        made = decoder.apply({"params": params}, x.astype(dtype), keys)
        each, patches = blocks // len(groups), E[0].shape[1] * E[0].shape[2]
        D = [jnp.mean(jnp.stack(made[i : i + each]), axis=0) for i in range(0, blocks, each)]
        return [(e, d[:, -patches:].reshape(e.shape).astype(e.dtype)) for e, d in zip(E, D)]

    def init(rng: Array, features: Features) -> Variables:
        _, x = jax.eval_shape(tokens, features)
        like = jax.ShapeDtypeStruct((1, *x.shape[1:]), jnp.float32)
        shapes = jax.eval_shape(lambda x: decoder.init(jax.random.key(0), x, None), like)
        inside = math.erf(LIMIT / math.sqrt(2))

        def kernel(_: tuple[str, ...], numbers: Array) -> Array:
            return jax.lax.erf_inv(uniform(numbers) * inside) * (math.sqrt(2) * SPREAD)

        params = drawn(rng, shapes, {"kernel": kernel}, dtype=x.dtype)
        return {**params, "course": {"step": jnp.zeros((), x.dtype)}}

    def loss(
        variables: Variables, features: Features, batch: Mapping[str, Array], rng: Array
    ) -> tuple[Array, Aux]:
        keys = None
        if dropout:
            place = elements(batch, features[groups[0]].shape[0])
            rng = fold_in_name(rng, "dropout")
            keys = jax.vmap(lambda n: jax.random.fold_in(rng, n))(place)
        step = variables["course"]["step"]
        grown = jnp.clip(step / easy_steps, 0, 1) if easy_steps else jnp.ones_like(step)
        losses = []
        for e, d in rebuilt(variables, features, keys):
            with jax.named_scope("loss"):
                distance = jax.lax.stop_gradient(1 - cosine(e, d))
                d = softened(
                    d, distance, share=easy_share * grown, factor=easy, axis_name=axis_name
                )
                e, d = (x.reshape(x.shape[0], -1) for x in (e, d))
                losses.append(jnp.mean(1 - cosine(e, d)))
        return jnp.mean(jnp.stack(losses)), Aux({"course": {"step": step + 1}}, {})

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        each = [1 - cosine(e, d) for e, d in rebuilt(variables, features)]
        M = jnp.mean(jnp.stack(each), axis=0)
        M = resize_map(M, size=size, sigma=smoothing, truncate=TAPS, align_corners=True)
        return Scores(M, top_share_mean(M, top_share))

    def schedules(steps: int) -> dict[str, Callable[[Array], Array]]:
        peak, last = learning_rate
        return {"all": warm_cosine(steps, peak=peak, last=last, warmup=warmup)}

    def optimizer(steps: int) -> optax.GradientTransformation:
        chain = stable_adamw(schedules(steps)["all"], weight_decay=weight_decay)
        return optax.chain(optax.clip_by_global_norm(clip), chain) if clip else chain

    return Method(init, loss, score, optimizer, schedules=schedules)
