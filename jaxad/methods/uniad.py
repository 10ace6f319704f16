"""UniAD (You et al., NeurIPS 2022): rebuild normal features by a transformer that can not copy.

Features of a frozen network's stages lie on one grid as tokens. An encoder and a decoder rebuild
them, from noised ones while training. Three things keep them from passing a defect on: no token
attends to its neighbours or itself, every layer of the decoder starts from learned queries, and
the noise (feature jitter). Where features are not rebuilt, the distance is the score.

The recipe is the authors' code (zhiyuanyou/UniAD, experiments/MVTec-AD), but for its choice of the
best of 100 test evaluations: the last step counts. It is what AFRAD compares itself with first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from jaxad.core import Array, Aux, Features, InputError, Method, Scores, Variables, pick
from jaxad.methods.uniad_network import Transformer, neighbour_mask
from jaxad.ops.initialise import drawn, uniform
from jaxad.ops.noise import elements, fold_in_name, normal_by_element
from jaxad.ops.normalise import safe_sqrt
from jaxad.ops.pool import average_pool
from jaxad.ops.resample import resize, resize_map


def jittered(rng: Array, F: Array, *, element: Array, scale: float) -> Array:
    """Add noise of standard deviation `scale` times a token's length over its channels.

    `F` is `(B, h, w, C)`; `element`, `(B,)`, are the images' places in the batch over all devices,
    which decide their noise.
    """
    noise = normal_by_element(rng, element, F.shape[1:], dtype=F.dtype)
    length = safe_sqrt(jnp.sum(jnp.square(F), axis=-1, keepdims=True))
    return F + noise * length * (scale / F.shape[-1])


def stepped_down(
    learning_rate: float, *, weight_decay: float, clip: float, one_cycle: bool
) -> tuple[
    Callable[[int], optax.GradientTransformation],
    Callable[[int], dict[str, optax.ScalarOrSchedule]],
]:
    """Make `optimizer` and `schedules` of a `Method`, as `uniad` describes their arguments.

    AdamW with a tenth of the rate after four fifths of the steps: the code's, and AFRAD's by it.
    """

    def schedules(steps: int) -> dict[str, optax.ScalarOrSchedule]:
        if one_cycle:
            return {"all": optax.cosine_onecycle_schedule(steps, learning_rate)}
        return {"all": optax.piecewise_constant_schedule(learning_rate, {int(0.8 * steps): 0.1})}

    def optimizer(steps: int) -> optax.GradientTransformation:
        chain = optax.adamw(schedules(steps)["all"], weight_decay=weight_decay)
        return optax.chain(optax.clip_by_global_norm(clip), chain) if clip else chain

    return optimizer, schedules


def uniad(
    stages: Sequence[str],
    *,
    grid: str,
    width: int = 256,
    heads: int = 8,
    inner: int = 1024,
    layers: int = 4,
    neighbours: int = 7,
    position: str = "learned",
    dropout: float = 0.1,
    jitter: float = 20.0,
    pooling: int = 16,
    learning_rate: float = 1e-4,
    weight_decay: float = 1e-4,
    clip: float = 0.1,
    one_cycle: bool = False,
    zero_output: bool = False,
) -> Method:
    """Build UniAD.

    Args:
        stages: Names of the features that are rebuilt, concatenated.
        grid: The one of them whose grid the tokens lie on; the others are resized to it.
        width: Channels of the transformer.
        heads: Of every attention.
        inner: Width of the layers between attentions.
        layers: Of the encoder, and of the decoder.
        neighbours: Side of the square around a token that it does not attend to, odd, in all three
            attentions; 0: it attends to all tokens.
        position: "learned" (a vector for each row and each column) or "sine".
        dropout: Share of attention weights, hidden values and results that a step leaves out.
        jitter: Noise on the features in training, see `jittered`; 0: none.
        pooling: Image score = maximum of the map averaged over squares of so many pixels (the
            code's for MVTec AD); 0: mean of the map (for CIFAR-10).
        learning_rate: Of AdamW, the peak if scheduled.
        weight_decay: Of AdamW.
        clip: Largest global norm of the gradient; 0: any.
        one_cycle: Cosine one-cycle schedule instead of a tenth of the rate after four fifths of the
            steps (the code's 800 of 1,000 epochs); ours.
        zero_output: Start the last layer at zero instead of torch's random values, whose noise a
            short run gets rid of by making all tokens alike, where it then stays; ours.

    Returns:
        A `Method` whose variables are `params`. They are of one grid: another size of images needs
        a training of its own.

    Raises:
        InputError: Widths that do not divide, an unknown position, an even square.
    """
    if grid not in stages:
        raise InputError(f"the grid {grid!r} is not among the stages {tuple(stages)}")
    if width % heads or width % 4:
        raise InputError(f"method.width is {width}: use a multiple of 4 and of {heads} heads")
    if position not in ("learned", "sine"):
        raise InputError(f"method.position is {position!r}: use 'learned' or 'sine'")
    if neighbours and not neighbours % 2:
        raise InputError(f"method.neighbours is {neighbours}: use an odd number, or 0")

    def tokens(features: Features) -> Array:
        """The features on one grid, `(B, h, w, C)`."""
        S = pick(features, stages)
        _, h, w, _ = features[grid].shape
        return jnp.concatenate([resize(x, size=(h, w), align_corners=True) for x in S], axis=-1)

    def network(size: tuple[int, int], channels: int) -> Transformer:
        mask = neighbour_mask(size, neighbours) if neighbours else None
        if mask is not None and mask.all(axis=1).any():
            raise InputError(
                f"method.neighbours is {neighbours}, and tokens lie on a grid of {size[0]} x "
                f"{size[1]}: one would attend to none; use fewer, or larger images"
            )
        return Transformer(
            grid=size,
            channels=channels,
            width=width,
            heads=heads,
            inner=inner,
            layers=layers,
            neighbours=neighbours,
            sine=position == "sine",
            dropout=dropout,
        )

    def rebuilt(variables: Variables, F: Array, *, keys: Array | None = None) -> Array:
        """F_rec, computed in the type of the parameters, in that of F."""
        _, h, w, channels = F.shape
        known = variables["params"]["decoder0"]["queries"].shape[0]
        if known != h * w:
            raise InputError(
                f"images of this size have {h} x {w} tokens, and UniAD was trained on {known}: "
                "give images of the size that it was trained on"
            )
        dtype = variables["params"]["enter"]["kernel"].dtype
        made = network((h, w), channels).apply(variables, F.astype(dtype), keys)
        F_rec: Array = made.astype(F.dtype)
        return F_rec

    def init(rng: Array, features: Features) -> Variables:
        F = jax.eval_shape(tokens, features)
        _, h, w, channels = F.shape
        module = network((h, w), channels)
        like = jax.ShapeDtypeStruct((1, h, w, channels), jnp.float32)
        shapes = jax.eval_shape(lambda F: module.init(jax.random.key(0), F, None), like)

        def kernel(path: tuple[str, ...], numbers: Array) -> Array:  # Xavier's
            inputs, outputs = numbers.shape
            if zero_output and path[-2] == "leave":
                return jnp.zeros_like(numbers)
            # torch draws the projections of queries, keys and values as one matrix.
            outputs *= 3 if path[-2] in ("query", "key", "value") else 1
            return uniform(numbers) * math.sqrt(6 / (inputs + outputs))

        def along(_: tuple[str, ...], numbers: Array) -> Array:
            return (uniform(numbers) + 1) / 2

        rules = {"kernel": kernel, "rows": along, "columns": along, "queries": lambda _, x: x}
        return drawn(rng, shapes, rules, dtype=F.dtype)

    def loss(
        variables: Variables, features: Features, batch: Mapping[str, Array], rng: Array
    ) -> tuple[Array, Aux]:
        F = tokens(features)  # no labels
        element = elements(batch, F.shape[0])
        noised, keys = F, None
        if jitter:
            noised = jittered(fold_in_name(rng, "jitter"), F, element=element, scale=jitter)
        if dropout:
            rng = fold_in_name(rng, "dropout")
            keys = jax.vmap(lambda place: jax.random.fold_in(rng, place))(element)
        F_rec = rebuilt(variables, noised, keys=keys)
        with jax.named_scope("loss"):
            return jnp.mean(jnp.square(F_rec - F)), Aux({}, {})

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        F = tokens(features)
        error = jnp.sum(jnp.square(rebuilt(variables, F) - F), axis=-1)
        M = resize_map(safe_sqrt(error), size=size, align_corners=True)
        if not pooling:
            return Scores(M, jnp.mean(M, axis=(1, 2)))
        return Scores(M, jnp.max(average_pool(M, window=pooling), axis=(1, 2)))

    optimizer, schedules = stepped_down(
        learning_rate, weight_decay=weight_decay, clip=clip, one_cycle=one_cycle
    )
    return Method(init, loss, score, optimizer, schedules=schedules)
