"""EfficientAD-S (Batzner et al., WACV 2024): a student and an autoencoder of a small teacher.

The teacher is a patch description network, distilled from a frozen network; a student learns from
pixels what it says of normal photos, by its hardest features alone. An autoencoder, which sees the
whole photo through one vector, learns the same, and the student's second half learns what that
autoencoder says. Where they differ is anomalous: in structure, or in how parts are put together.
What the paper leaves open is as in its best known code (nelson1425/EfficientAd).

There, the teacher was distilled on ImageNet, and so is the penalty taken. Here the teacher is that
one, or is distilled from the photos that are there (`jaxad.methods.efficientad_teacher`); the
penalty is of photos that are there (docs/from_pixels.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxad.core import Array, Aux, Features, Images, InputError, Method, Scores, Variables, pick
from jaxad.methods.efficientad_network import LEAST, Autoencoder
from jaxad.methods.efficientad_teacher import Teacher, drawn, given
from jaxad.ops.chunk import by_image
from jaxad.ops.noise import elements
from jaxad.ops.precision import at_least_float32
from jaxad.ops.resample import resize_map

QUANTILES = (0.9, 0.995)
"""Of the maps of normal photos: what becomes 0 and .1."""
BORDER = 4
"""Positions around a map of 56 x 56 that no patch is centred at."""
GREY = (0.2989, 0.587, 0.114)


def hard_mean(distance: Array, share: float) -> Array:
    """Mean of the values `(B, ...)` from their quantile `share` on, of each photo, `(B,)`."""
    flat = distance.reshape(distance.shape[0], -1)
    count = flat.shape[1] - math.ceil(share * (flat.shape[1] - 1) - 1e-9)
    return jnp.mean(jax.lax.top_k(flat, count)[0], axis=1)


def recoloured(images: Array, rng: Array, element: Array) -> Array:
    """Change brightness, contrast or saturation of `(B, H, W, 3)`, 0 to 255, by up to a fifth."""

    def one(image: Array, place: Array) -> Array:
        kind, by = jax.random.split(jax.random.fold_in(rng, place))
        factor = jax.random.uniform(by, (), image.dtype, 0.8, 1.2)
        grey = jnp.sum(image * jnp.asarray(GREY, image.dtype).reshape(1, 1, 3), -1, keepdims=True)
        mean = jnp.mean(grey, axis=(0, 1), keepdims=True)
        grounds = [jnp.zeros_like(image), *(jnp.broadcast_to(x, image.shape) for x in (mean, grey))]
        ground = jnp.stack(grounds)[jax.random.randint(kind, (), 0, 3)]
        return jnp.clip(ground + factor * (image - ground), 0, 255)

    return jax.vmap(one)(images, element)


def efficientad(
    photo: str,
    knows: Teacher,
    *,
    prepare: Callable[[Array], Array],
    width: int = 32,
    hard: float = 0.999,
    penalty: Callable[[], np.ndarray] | None = None,
    learning_rate: float = 1e-4,
    weight_decay: float = 1e-5,
) -> Method:
    """Build EfficientAD-S: what student and autoencoder learn, and all that scores.

    Args:
        photo: Name of the pixels.
        knows: The teacher: of a `distillation` that trains it before, or `published`. The student
            has the same network with twice the channels.
        prepare: Pixels to what networks are given.
        width: Of the autoencoder's first layers, channels.
        hard: Quantile from which on features are hard.
        penalty: Gives photos `(N, H, W, 3)` uint8 that are not of the parts: on these the student
            has to say nothing. Called when a step is compiled; None: there is no such penalty.
        learning_rate: Of Adam; a tenth of it after 95 % of the steps.
        weight_decay: L2, as torch's Adam has it.

    Returns:
        A `Method` with `params` of teacher, student and autoencoder; only the last two are trained.
        `variables["quantiles"]` has what each map is brought to one scale by, from a last pass over
        the training photos. The map is the mean of both; the image score its maximum.
    """
    teacher = knows.network
    student = teacher.clone(channels=2 * teacher.channels)

    def rebuilds(grid: tuple[int, ...]) -> Autoencoder:
        return Autoencoder(teacher.channels, (grid[1], grid[2]), width)

    def apply(network: Any, name: str, variables: Variables, images: Array, *args: Any) -> Array:
        own = {"params": variables["params"][name]}
        with jax.named_scope(name):
            return at_least_float32(network.apply(own, given(prepare, images, own), *args))

    def init(rng: Array, features: Features) -> Variables:
        images = pick(features, [photo])[0]
        if min(images.shape[1:3]) < LEAST:
            raise InputError(
                f"photos of {images.shape[1]} x {images.shape[2]} pixels are too small for "
                f"EfficientAD: set data.image_size to {LEAST} at least"
            )
        keys = jax.random.split(rng, 3)
        variables = knows.init(keys[0], features)
        params = variables["params"]
        dtype = jax.tree.leaves(params)[0].dtype
        x = jax.ShapeDtypeStruct((1, *images.shape[1:]), dtype)
        grid = jax.eval_shape(lambda p, x: teacher.apply({"params": p}, x), params["teacher"], x)
        params["student"] = drawn(student, keys[1], images, dtype)
        params["autoencoder"] = drawn(rebuilds(grid.shape), keys[2], images, dtype)
        unit = jnp.asarray([0, 1], dtype)
        return {**variables, "quantiles": {"structure": unit, "logic": unit}}

    def loss(
        variables: Variables, features: Features, batch: Mapping[str, Array], rng: Array
    ) -> tuple[Array, Aux]:
        images = pick(features, [photo])[0]
        images = images.astype(jax.tree.leaves(variables["params"])[0].dtype)
        element = elements(batch, images.shape[0])
        colour, dropout, choice = jax.random.split(rng, 3)

        def half(images: Array, which: int) -> Array:
            both = apply(student, "student", variables, images)
            return jnp.split(both, 2, axis=-1)[which]

        true = jax.lax.stop_gradient(apply(teacher, "teacher", variables, images))
        with jax.named_scope("loss"):
            losses = {"hard": hard_mean(jnp.square(true - half(images, 0)), hard)}
        if penalty is not None:
            others = jnp.asarray(penalty())

            def other(place: Array) -> Array:
                key = jax.random.fold_in(choice, place)
                return others[jax.random.randint(key, (), 0, len(others))]

            seen = half(jax.vmap(other)(element), 0)
            losses["penalty"] = jnp.mean(jnp.square(seen), axis=(1, 2, 3))
        images = recoloured(images, colour, element)
        true = jax.lax.stop_gradient(apply(teacher, "teacher", variables, images))
        network = rebuilds(true.shape)
        rebuilt = apply(network, "autoencoder", variables, images, dropout, element)
        for name, pair in (
            ("autoencoder", (true, rebuilt)),
            ("logic", (rebuilt, half(images, 1))),
        ):
            losses[name] = jnp.mean(jnp.square(pair[0] - pair[1]), axis=(1, 2, 3))
        means, one = {name: jnp.mean(value) for name, value in losses.items()}, jnp.ones(())
        metrics = {f"loss_{name}": (value, one) for name, value in means.items()}
        return jnp.sum(jnp.stack(list(means.values()))), Aux({}, metrics)

    def maps(variables: Variables, images: Array) -> tuple[Array, Array]:
        """Structure and logic, `(B, h, w)` each, on the teacher's grid."""
        true = apply(teacher, "teacher", variables, images)
        rebuilt = apply(rebuilds(true.shape), "autoencoder", variables, images)
        halves = jnp.split(apply(student, "student", variables, images), 2, axis=-1)
        structure, logic = (
            jnp.mean(jnp.square(a - b), axis=-1) for a, b in zip((true, rebuilt), halves)
        )
        return structure, logic

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        images = pick(features, [photo])[0]
        found = by_image(lambda x: maps(variables, x), images)
        both = []
        for name, one in zip(("structure", "logic"), found):
            low, high = variables["quantiles"][name]
            both.append((one - low.reshape(1, 1, 1)) * (0.1 / (high - low)).reshape(1, 1, 1))
        edges = ((0, 0), (BORDER, BORDER), (BORDER, BORDER))
        map_ = resize_map(jnp.pad((both[0] + both[1]) / 2, edges), size=size)
        return Scores(map_, jnp.max(map_, axis=(1, 2)))

    measured = jax.jit(maps)

    def finalize(variables: Variables, images: Images) -> Variables:
        every = [jax.device_get(measured(variables, found[photo])) for found, _ in images]
        quantiles = {}
        for n, name in enumerate(("structure", "logic")):
            values = np.concatenate([maps_of[n].ravel() for maps_of in every])
            low, high = np.quantile(values, QUANTILES)
            # Photos that are all alike have no spread: what differs from them still counts.
            high = max(high, low + 1e-6 * max(abs(low), 1e-6))
            quantiles[name] = jnp.asarray([low, high], variables["quantiles"][name].dtype)
        return {**variables, "quantiles": quantiles}

    def schedules(steps: int) -> dict[str, optax.ScalarOrSchedule]:
        late = int(0.95 * steps)
        return {"student": optax.piecewise_constant_schedule(learning_rate, {late: 0.1})}

    def optimizer(steps: int) -> optax.GradientTransformation:
        rate = schedules(steps)["student"]
        learns = optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(rate))
        return optax.multi_transform(
            {"learns": learns, "frozen": optax.set_to_zero()},
            lambda params: {
                name: jax.tree.map(lambda _, n=name: "frozen" if n == "teacher" else "learns", tree)
                for name, tree in params.items()
            },
        )

    return Method(
        init, loss, score, optimizer, finalize, schedules=schedules, observe=knows.observe
    )
