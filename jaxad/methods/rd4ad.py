"""RD4AD (Deng and Li, CVPR 2022): rebuild a frozen network's features from a narrow embedding.

Three levels of a ResNet, the teacher, are brought to the grid of the deepest and through one more
stage: the one-class embedding. A student, the teacher backwards, grows the three levels from it
again. It learns to on normal images; where it can not, the angle between both is the score.

The defaults are the authors' code (hq-deng/RD4AD). It takes one cosine of all of an image's level
where the paper prints a mean over positions (`by_position`), and has layers without use, which are
left out here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxad.core import Array, Aux, Features, InputError, Method, Scores, Variables, pick
from jaxad.ops.convolve import convolve, convolve_up, symmetric_padding
from jaxad.ops.fold import fold_batch_norm
from jaxad.ops.initialise import drawn, uniform
from jaxad.ops.layers import BatchNorm
from jaxad.ops.normalise import l2_normalise
from jaxad.ops.resample import resize_map

Change = Literal["down", "same", "up"]
"""Of the grid: halved, kept or doubled."""
EPSILON = 1e-8
"""The least length of a vector in torch's cosine."""


class Convolution(nn.Module):
    """A convolution, without bias but where BatchNorm has been folded into it."""

    features: int
    size: int
    change: Change

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `(B, h, w, C)` to `(B, h', w', features)`; going up, by 2 x 2 kernels."""
        size = 2 if self.change == "up" else self.size
        shape = (size, size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.zeros, shape)  # drawn by `init`
        x = x.astype(kernel.dtype)
        if self.change == "up":
            y = convolve_up(x, kernel)
        else:
            stride = 2 if self.change == "down" else 1
            y = convolve(x, kernel, stride=stride, padding=symmetric_padding(size // 2))
        if self.has_variable("params", "bias"):
            y = y + self.get_variable("params", "bias").reshape(1, 1, 1, -1)
        return y


class ConvNorm(nn.Module):
    """A convolution and BatchNorm."""

    features: int
    size: int
    change: Change = "same"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Map `(B, h, w, C)` to `(B, h', w', features)`."""
        y = Convolution(self.features, self.size, self.change, name="conv")(x)
        normalised: Array = BatchNorm(axis_name=self.axis_name, name="bn")(y, train=train)
        return normalised


class Block(nn.Module):
    """A ResNet's block, which may double the grid where the teacher's halves it."""

    channels: int
    inner: int
    """Channels of the middle one of three convolutions; 0: there are two, of all channels."""
    change: Change
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Map `(B, h, w, C)` to `(B, h', w', channels)`."""

        def layer(x: Array, features: int, size: int, change: Change, name: str) -> Array:
            y: Array = ConvNorm(features, size, change, self.axis_name, name=name)(x, train=train)
            return y

        if self.inner:
            y = nn.relu(layer(x, self.inner, 1, "same", "conv1"))
            y = nn.relu(layer(y, self.inner, 3, self.change, "conv2"))
            y = layer(y, self.channels, 1, "same", "conv3")
        else:
            y = nn.relu(layer(x, self.channels, 3, self.change, "conv1"))
            y = layer(y, self.channels, 3, "same", "conv2")
        if self.change != "same":
            x = layer(x, self.channels, 1, self.change, "shortcut")
        return nn.relu(y + x)


class Student(nn.Module):
    """One-class embedding and the reversed teacher."""

    blocks: tuple[int, int, int, int]
    inner: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, E: Sequence[Array], *, train: bool) -> list[Array]:
        """Map the teacher's levels `(B, h, w, C)`, finest first, to the student's."""
        channels = [x.shape[-1] for x in E]

        def halve(x: Array, features: int, name: str) -> Array:
            made = ConvNorm(features, 3, "down", self.axis_name, name=name)
            return nn.relu(made(x, train=train))

        def stage(x: Array, features: int, count: int, change: Change, name: str) -> Array:
            inner = round(self.inner * features)
            for i in range(count):
                own: Change = "same" if i else change
                block = Block(features, inner, own, self.axis_name, name=f"{name}_{i}")
                x = block(x, train=train)
            return x

        with jax.named_scope("embedding"):
            first = halve(halve(E[0], channels[1], "fuse1"), channels[2], "fuse1_again")
            second = halve(E[1], channels[2], "fuse2")
            x = jnp.concatenate([first, second, E[2].astype(first.dtype)], axis=-1)
            x = stage(x, 2 * channels[2], self.blocks[3], "down", "embedding")
        with jax.named_scope("decoder"):
            D: list[Array] = []
            for level in (2, 1, 0):
                # As many blocks, deepest first, as the teacher has shallowest first.
                count = self.blocks[2 - level]
                x = stage(x, channels[level], count, "up", f"decoder{level + 1}")
                D.insert(0, x)
        return D


def cosine(a: Array, b: Array) -> Array:
    """Of the vectors on the last axis, `(...)`, as torch's `cosine_similarity`."""
    return jnp.sum(l2_normalise(a, epsilon=EPSILON) * l2_normalise(b, epsilon=EPSILON), axis=-1)


def rd4ad(
    levels: Sequence[str],
    *,
    blocks: Sequence[int] = (2, 2, 2, 2),
    inner: float = 0.0,
    by_position: bool = False,
    learning_rate: float = 5e-3,
    betas: tuple[float, float] = (0.5, 0.999),
    smoothing: float = 4.0,
    axis_name: str | None = None,
) -> Method:
    """Build RD4AD.

    Args:
        levels: Names of three features of a ResNet, finest first, each with twice the grid of the
            next.
        blocks: The teacher's: residual blocks of its four stages. The student's of the third level
            takes the first number, and so on; the embedding takes the last.
        inner: Share of a block's channels that its middle convolution has (a quarter in ResNet-50,
            half in Wide ResNet-50-2); 0: basic blocks (ResNet-18 and -34).
        by_position: The loss is a mean over positions (the paper's Eq. 2), instead of one cosine of
            each image's level, over positions and channels together.
        learning_rate: Of Adam.
        betas: Of Adam.
        smoothing: Standard deviation of the Gaussian on the map, in pixels.
        axis_name: For BatchNorm over devices.

    Returns:
        A `Method` whose variables are `params` and `batch_stats`.

    Raises:
        InputError: Not three levels, or not four numbers of blocks.
    """
    if len(levels) != 3:
        raise InputError(f"method.levels is {tuple(levels)}: RD4AD rebuilds three levels")
    if len(blocks) != 4:
        raise InputError(f"method.blocks is {tuple(blocks)}: give four numbers")
    student = Student((blocks[0], blocks[1], blocks[2], blocks[3]), inner, axis_name)

    def teacher(features: Features) -> list[Array]:
        E = pick(features, levels)
        grids = [x.shape[1:3] for x in E]
        h, w = grids[-1]
        if h % 2 or w % 2 or grids[:2] != [(4 * h, 4 * w), (2 * h, 2 * w)]:
            told = ", ".join(f"{h} x {w}" for h, w in grids)
            raise InputError(
                f"{', '.join(levels)} have grids of {told}: RD4AD needs each to be twice the next, "
                "and the last one even; give images whose sides are multiples of 32 pixels "
                "(data.image_size), and levels of strides 4, 8 and 16 (method.levels)"
            )
        return E

    def init(rng: Array, features: Features) -> Variables:
        E = [jax.ShapeDtypeStruct((2, *x.shape[1:]), jnp.float32) for x in teacher(features)]
        shapes = jax.eval_shape(lambda E: student.init(jax.random.key(0), E, train=True), E)

        def kernel(_: tuple[str, ...], numbers: Array) -> Array:
            size, outputs = numbers.shape[0], numbers.shape[-1]
            fan_out = size * size * outputs
            if size == 2:  # the authors leave what torch draws for transposed convolutions
                return uniform(numbers) * fan_out**-0.5
            return numbers * math.sqrt(2 / fan_out)

        return drawn(rng, shapes, {"kernel": kernel}, dtype=pick(features, levels)[0].dtype)

    def loss(
        variables: Variables, features: Features, batch: Mapping[str, Array], rng: Array
    ) -> tuple[Array, Aux]:
        del batch, rng  # no labels and no randomness in this method
        E = teacher(features)
        D, updates = student.apply(variables, E, train=True, mutable=["batch_stats"])
        losses = []
        with jax.named_scope("loss"):
            for own, made in zip(E, D):
                made = made.astype(own.dtype)
                if not by_position:
                    own, made = (x.reshape(x.shape[0], -1) for x in (own, made))
                losses.append(jnp.mean(1 - cosine(own, made)))
        names = [f"loss_{level.rsplit('/', 1)[-1]}" for level in levels]
        metrics = {name: (value, jnp.ones(())) for name, value in zip(names, losses)}
        return jnp.sum(jnp.stack(losses)), Aux(dict(updates), metrics)

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        E = teacher(features)
        D = student.apply(variables, E, train=False)
        resized = []
        for own, made in zip(E, D):
            M = 1 - cosine(own, made.astype(own.dtype))  # Eq. 1
            resized.append(resize_map(M, size=size, sigma=smoothing, align_corners=True))
        S = jnp.sum(jnp.stack(resized), axis=0)
        return Scores(S, jnp.max(S, axis=(1, 2)))

    def schedules(steps: int) -> dict[str, optax.ScalarOrSchedule]:
        del steps  # constant
        return {"all": learning_rate}

    def optimizer(steps: int) -> optax.GradientTransformation:
        del steps
        return optax.adam(learning_rate, b1=betas[0], b2=betas[1])

    def fold(variables: Variables) -> Variables:
        return fold_batch_norm(variables, BatchNorm.epsilon)

    return Method(init, loss, score, optimizer, fold=fold, schedules=schedules)
