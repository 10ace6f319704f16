"""DRAEM (Zavrtanik et al., ICCV 2021): learn to tell defects from photos with simulated ones.

One network rebuilds a photo as if it had no defect, a second sees both and tells, for every pixel,
whether it is one. Both start at random and learn together, from normal photos that textures are
laid over (`draem_defects`). What the paper leaves open is as in its authors' code (VitjanZ/DRAEM).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxad.core import Array, Aux, Features, InputError, Method, Scores, Variables, pick
from jaxad.methods.draem_defects import simulated
from jaxad.methods.draem_networks import Networks
from jaxad.ops.chunk import by_image
from jaxad.ops.fold import fold_batch_norm
from jaxad.ops.initialise import drawn, uniform
from jaxad.ops.layers import BatchNorm
from jaxad.ops.noise import elements
from jaxad.ops.pool import average_pool
from jaxad.ops.precision import EXACT, at_least_float32
from jaxad.ops.resample import resize_map

WINDOW = 21
"""Pixels a side of the mean whose maximum is the image score."""
SMOOTH = 1e-5
"""Of the focal loss: no class is certain."""


def _window(size: int) -> np.ndarray:
    """The `(size, size)` matrix of SSIM's Gaussian: 11 taps of deviation 1.5, zeros around."""
    apart = np.arange(size)[:, None] - np.arange(size)[None, :]
    taps = np.where(np.abs(apart) <= 5, np.exp(-(apart**2) / (2 * 1.5**2)), 0)
    return taps / np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2)).sum()


def ssim(a: Array, b: Array) -> Array:
    """Structural similarity of images `(B, H, W, C)` of range 1, `(B, H, W, C)`: 1 if equal."""
    rows, columns = (jnp.asarray(_window(size), a.dtype) for size in a.shape[1:3])

    def mean(x: Array) -> Array:
        return jnp.einsum("Hh,bhwc,Ww->bHWc", rows, x, columns, precision=EXACT)

    of_a, of_b = mean(a), mean(b)
    squares = mean(a * a) - of_a**2 + mean(b * b) - of_b**2
    squares = jnp.where(squares > 0, squares, 0)  # rounding may bring it below
    product = mean(a * b) - of_a * of_b
    c1, c2 = 0.01**2, 0.03**2
    light = (2 * of_a * of_b + c1) / (of_a**2 + of_b**2 + c1)
    return light * (2 * product + c2) / (squares + c2)


def focal(logits: Array, mask: Array) -> Array:
    """Focal loss, exponent 2, of logits `(..., 2)`; class 1 is right where `mask`: `(...)`."""
    certain = jax.nn.softmax(logits, axis=-1)
    right = jnp.where(mask, certain[..., 1], certain[..., 0])
    # As the authors' code has it: 1 - SMOOTH of the right class, SMOOTH of the other, and SMOOTH.
    p = right * (1 - SMOOTH) + (1 - right) * SMOOTH + SMOOTH
    return -jnp.square(1 - p) * jnp.log(p)


def draem(
    photo: str,
    *,
    prepare: Callable[[Array], Array],
    width: int = 128,
    telling_width: int = 64,
    halvings: int = 5,
    textures: Callable[[], np.ndarray] | None = None,
    turn_share: float = 0.3,
    learning_rate: float = 1e-4,
    axis_name: str | None = None,
) -> Method:
    """Build DRAEM.

    Args:
        photo: Name of the pixels `(B, H, W, 3)` among the features.
        prepare: Pixels to 0 to 1, see `jaxad.core.Preprocess`.
        width: Channels of the rebuilding network's first layers.
        telling_width: Channels of the telling network's first layers.
        halvings: How often the telling network halves the photo, 1 or more; the other does once
            less often.
        textures: Gives photos `(N, H, W, 3)` uint8 of other things, which are laid over. Called
            when a step is compiled; None: textures are generated.
        turn_share: Share of the photos that are turned in a step, by up to 90 degrees.
        learning_rate: Of Adam; a fifth of it after 80 % of the steps, a fifth of that after 90 %.
        axis_name: For BatchNorm over devices.

    Returns:
        A `Method` whose variables are `params` and `batch_stats`. The map is the probability of a
        defect; the image score is the maximum of its means over 21 x 21 pixels, zeros around.
    """
    net = Networks(width, telling_width, halvings, axis_name)

    def init(rng: Array, features: Features) -> Variables:
        images = pick(features, [photo])[0]
        size = images.shape[1:3]
        if any(side % 2**halvings for side in size):
            raise InputError(
                f"photos of {size[0]} x {size[1]} pixels: DRAEM halves them {halvings} times, so "
                f"set data.image_size to multiples of {2**halvings}"
            )
        dtype = jax.eval_shape(prepare, images).dtype
        x = jax.ShapeDtypeStruct((2, *size, 3), dtype)
        shapes = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=True), x)

        def bias(path: tuple[str, ...], numbers: Array) -> Array:
            if path[-2] == "bn":
                return jnp.zeros_like(numbers)
            fan_in = 9 * (width if "rebuild" in path else telling_width)
            return uniform(numbers) * fan_in**-0.5  # what torch draws

        return drawn(
            rng,
            shapes,
            {
                "kernel": lambda _, numbers: 0.02 * numbers,
                "scale": lambda _, numbers: 1 + 0.02 * numbers,
                "bias": bias,
            },
            dtype=dtype,
        )

    def dtype_of(variables: Variables) -> Any:
        return variables["params"]["rebuild"]["out"]["kernel"].dtype

    def loss(
        variables: Variables, features: Features, batch: Mapping[str, Array], rng: Array
    ) -> tuple[Array, Aux]:
        images = pick(features, [photo])[0]
        element = elements(batch, images.shape[0])
        dtype = dtype_of(variables)
        # Defects are drawn alike where networks compute in half precision.
        x = prepare(images).astype(jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype)
        true, seen, mask = simulated(x, rng, element, textures=textures, turn_share=turn_share)
        found, updates = net.apply(
            variables, seen.astype(dtype), train=True, mutable=["batch_stats"]
        )
        rebuilt, logits = (at_least_float32(y) for y in found)
        with jax.named_scope("loss"):
            losses = {
                "l2": jnp.mean(jnp.square(rebuilt - true)),
                "ssim": 1 - jnp.mean(ssim(rebuilt, true)),
                "focal": jnp.mean(focal(logits, mask)),
            }
        one = jnp.ones(())
        metrics = {f"loss_{name}": (value, one) for name, value in losses.items()}
        return jnp.sum(jnp.stack(list(losses.values()))), Aux(dict(updates), metrics)

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        images = pick(features, [photo])[0]

        def told(images: Array) -> Array:
            x = prepare(images).astype(dtype_of(variables))
            _, logits = net.apply(variables, x, train=False)
            return jax.nn.softmax(at_least_float32(logits), axis=-1)[..., 1]

        map_ = resize_map(by_image(told, images), size=size)
        edge = (WINDOW // 2, WINDOW // 2)
        means = average_pool(jnp.pad(map_, ((0, 0), edge, edge)), window=WINDOW)
        return Scores(map_, jnp.max(means, axis=(1, 2)))

    def schedules(steps: int) -> dict[str, optax.ScalarOrSchedule]:
        late = {int(0.8 * steps): 0.2, int(0.9 * steps): 0.2}
        return {"all": optax.piecewise_constant_schedule(learning_rate, late)}

    def optimizer(steps: int) -> optax.GradientTransformation:
        return optax.adam(schedules(steps)["all"])

    def fold(variables: Variables) -> Variables:
        return fold_batch_norm(variables, BatchNorm.epsilon)

    return Method(init, loss, score, optimizer, fold=fold, schedules=schedules)
