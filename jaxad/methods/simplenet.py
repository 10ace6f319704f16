"""SimpleNet (Liu et al., CVPR 2023): normal features against the same features with noise added.

Neighbouring features of a frozen network are averaged into patch features, a linear adaptor moves
them to a space of their own, and a small discriminator learns to tell them from noised copies; what
it says of a test image's patches is the score. The recipe is that of the authors' run.sh
(DonaldRR/SimpleNet), but for its choice of the best of 40 test evaluations: the last step counts.

It is Adapted-MoE's baseline and its expert.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxad.core import Array, Aux, Features, InputError, Method, Scores, Variables, pick
from jaxad.ops.convolve import convolve
from jaxad.ops.layers import BatchNorm, Linear
from jaxad.ops.noise import elements, normal_by_element
from jaxad.ops.precision import EXACT, at_least_float32
from jaxad.ops.resample import resize, resize_map


def adaptive_pool_matrix(size_in: int, size_out: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Matrix `(size_out, size_in)` of torch's `adaptive_avg_pool1d`."""
    start = np.arange(size_out) * size_in // size_out
    end = -(-(np.arange(1, size_out + 1) * size_in) // size_out)
    at = np.arange(size_in)
    inside = (at >= start[:, None]) & (at < end[:, None])
    matrix: np.ndarray[Any, np.dtype[np.float64]] = inside / (end - start)[:, None]
    return matrix


def aggregation_kernel(
    channels: int, *, width: int, levels: int
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], int]:
    """What the reference makes of a level's 3 x 3 neighbourhoods, as a grouped convolution.

    The reference unfolds every position's neighbourhood to `channels * 9` numbers (channel, row,
    column), averages groups of them down to `width`, does so for every level, and averages groups
    of the `levels * width` numbers down to `width` again. All of it is linear, and a level only
    reaches its own `width / levels` outputs.

    Args:
        channels: Of the level.
        width: Of the patch features.
        levels: How many levels there are.

    Returns:
        Kernel `(3, 3, channels / groups, width / levels)` and `groups`.

    Raises:
        InputError: `width` is not a multiple of `levels`.
    """
    if width % levels:
        raise InputError(f"method.embedding is {width}: use a multiple of the {levels} levels")
    outputs = width // levels
    first = adaptive_pool_matrix(9 * channels, width)
    second = np.kron(np.eye(outputs), np.full((1, levels), 1 / levels))
    matrix = (second @ first).reshape(outputs, channels, 3, 3)
    groups = math.gcd(channels, outputs)
    inputs = channels // groups
    kernel = np.stack(
        [
            matrix[o, o * groups // outputs * inputs :][:inputs]  # the rest is zero
            for o in range(outputs)
        ]
    )
    return kernel.transpose(2, 3, 1, 0).astype(np.float32), groups


def patch_features(features: Features, names: Sequence[str], *, width: int) -> Array:
    """Average neighbourhoods of several levels into patch features `(B, h, w, width)`.

    Equal to the reference's unfold, resize and two adaptive poolings; the resize (bilinear, corners
    not aligned) comes after the averaging, of `width / levels` maps instead of nine a channel.

    Args:
        features: Maps `(B, h_l, w_l, C_l)`.
        names: The levels, the one whose resolution counts first.
        width: Channels of the result; 0: all channels of all levels, each a mean of 3 x 3 positions
            where what lies outside counts as 0 (torch's `avg_pool2d(3, 1, 1)`).

    Raises:
        InputError: A level is missing, or `width` is not a multiple of their number.
    """
    maps = pick(features, names)
    _, h, w, _ = maps[0].shape
    parts = []
    with jax.named_scope("patch_features"):
        for x in maps:
            channels = x.shape[-1]
            if width:
                kernel, groups = aggregation_kernel(channels, width=width, levels=len(names))
            else:
                kernel, groups = np.full((3, 3, 1, channels), 1 / 9), channels
            y = convolve(x, jnp.asarray(kernel, x.dtype), stride=1, padding="SAME", groups=groups)
            parts.append(resize(y, size=(h, w)))
        return jnp.concatenate(parts, axis=-1)


class Expert(nn.Module):
    """Adaptor and discriminator."""

    hidden: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, noise: Array | None = None) -> tuple[Array, Array | None]:
        """Say of patch features `(..., C)` how normal they are, `(...)`, higher is more so.

        With `noise` of the same shape, in training mode: also of the noised adapted features. Both
        pass BatchNorm as one batch, as in the reference.
        """
        train, count = noise is not None, x.shape[0]  # may be symbolic
        if self.is_initializing() or self.has_variable("params", "adaptor"):  # not merged
            x = Linear(x.shape[-1], xavier=True, name="adaptor")(x)
        if noise is not None:
            x = jnp.concatenate([x, x + noise.astype(x.dtype)])
        x = Linear(self.hidden, xavier=True, name="enter")(x)
        x = BatchNorm(axis_name=self.axis_name, name="norm")(x, train=train)
        x = Linear(1, xavier=True, use_bias=False, name="leave")(nn.leaky_relu(x, 0.2))[..., 0]
        x = at_least_float32(x)  # losses and scores are of it
        return x[:count], x[count:] if train else None


def merge(variables: Variables) -> Variables:
    """Merge an expert's adaptor, first layer and BatchNorm, which are all linear, into that layer.

    Takes the variables of one `Expert`, or of several on a leading axis, and returns them in a form
    that scores alike, with two fifths of the work. A pure function of arrays, for `jit` too.
    """
    params, stats = variables["params"], variables["batch_stats"]["norm"]
    adaptor, enter, norm = (params[name] for name in ("adaptor", "enter", "norm"))
    gain = norm["scale"] / jnp.sqrt(stats["var"] + BatchNorm.epsilon)
    # The bias as one more row of the kernel: one product for both.
    rows = jnp.concatenate([adaptor["kernel"], adaptor["bias"][..., None, :]], axis=-2)
    rows = jnp.matmul(rows, enter["kernel"], precision=EXACT)
    bias = (rows[..., -1, :] + enter["bias"] - stats["mean"]) * gain + norm["bias"]
    merged = {"kernel": rows[..., :-1, :] * gain[..., None, :], "bias": bias}
    return {"params": {"enter": merged, "leave": params["leave"]}}


def margin_loss(true: Array, fake: Array, *, margin: float) -> tuple[Array, Array]:
    """How far each of true and noised features is short of its side of the margin, `(...)` each."""
    return nn.relu(margin - true), nn.relu(margin + fake)


RATES = ("adaptor", "discriminator")
"""What has a learning rate of its own."""


def two_rates(
    adaptor: float, discriminator: float, *, adaptor_decay: float, discriminator_decay: float
) -> optax.GradientTransformation:
    """AdamW for the adaptor, Adam with L2 for the discriminator, as the reference has them."""

    def label(path: Any, _: Any) -> str:
        return "adaptor" if any(getattr(k, "key", "") == "adaptor" for k in path) else "rest"

    return optax.multi_transform(
        {
            "adaptor": optax.adamw(adaptor, weight_decay=adaptor_decay),
            "rest": optax.chain(
                optax.add_decayed_weights(discriminator_decay), optax.adam(discriminator)
            ),
        },
        lambda params: jax.tree_util.tree_map_with_path(label, params),
    )


def simplenet(
    feature: str,
    *,
    hidden: int = 1024,
    noise: float = 0.015,
    margin: float = 0.5,
    learning_rates: tuple[float, float] = (1e-4, 2e-4),
    weight_decays: tuple[float, float] = (1e-2, 1e-5),
    smoothing: float = 4.0,
    axis_name: str | None = None,
) -> Method:
    """Build SimpleNet on patch features.

    Args:
        feature: Name of the patch features, see `patch_features`.
        hidden: Width of the discriminator.
        noise: Standard deviation of the noise on adapted features.
        margin: Of the loss.
        learning_rates: Of adaptor and discriminator.
        weight_decays: Of adaptor (decoupled) and discriminator (L2).
        smoothing: Standard deviation of the Gaussian on the map, in pixels.
        axis_name: For BatchNorm over devices.

    Returns:
        A `Method` whose variables are `params` and `batch_stats`. It works position by position:
        its loss takes maps and drawn positions alike.
    """
    expert = Expert(hidden, axis_name)

    def patches(features: Features) -> Array:
        return pick(features, [feature])[0]

    def init(rng: Array, features: Features) -> Variables:
        x = patches(features)
        x = jnp.zeros((2, x.shape[-1]), x.dtype)
        variables: Variables = expert.init(rng, x, x)
        return variables

    def loss(
        variables: Variables, features: Features, batch: Mapping[str, Array], rng: Array
    ) -> tuple[Array, Aux]:
        x = patches(features)  # no labels
        drawn = normal_by_element(rng, elements(batch, len(x)), x.shape[1:], dtype=x.dtype)
        with jax.named_scope("adaptor_and_discriminator"):
            (true, fake), updates = expert.apply(
                variables, x, noise * drawn, mutable=["batch_stats"]
            )
        with jax.named_scope("loss"):
            losses = [jnp.mean(part) for part in margin_loss(true, fake, margin=margin)]
        one = jnp.ones(())
        metrics = {"loss_true": (losses[0], one), "loss_fake": (losses[1], one)}
        return losses[0] + losses[1], Aux(dict(updates), metrics)

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        grid = -expert.apply(variables, patches(features))[0].astype(jnp.float32)
        return Scores(resize_map(grid, size=size, sigma=smoothing), jnp.max(grid, axis=(1, 2)))

    def schedules(steps: int) -> dict[str, optax.ScalarOrSchedule]:
        del steps  # constant
        return dict(zip(RATES, learning_rates))

    def optimizer(steps: int) -> optax.GradientTransformation:
        del steps
        return two_rates(
            *learning_rates, adaptor_decay=weight_decays[0], discriminator_decay=weight_decays[1]
        )

    return Method(init, loss, score, optimizer, fold=merge, schedules=schedules)
