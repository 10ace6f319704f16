"""The vocabulary of jaxad: the few shapes that every room speaks.

An image batch flows through frozen backbones into named feature maps (`Features`); a `Method` turns
feature maps into a loss or into `Scores`. Everything here is data or a tuple of pure functions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxad.errors import InputError as InputError

Array = jax.Array
Features = dict[str, Array]
"""Level name -> `(B, h, w, C)` float32 (or `(n, C)` once positions have been drawn); pixels may be
uint8 (`jaxad.backbones.pixels`)."""
Variables = dict[str, Any]
"""A linen variable tree: collection name ("params", "batch_stats", ...) -> tree of arrays."""
Metrics = dict[str, tuple[Array, Array]]
"""Metric name -> (sum, count); adds across batches, devices and hosts."""


def as_inner(variables: Variables) -> Variables:
    """A network's variables as those of a module that holds it as `inner`."""
    return {collection: {"inner": tree} for collection, tree in variables.items()}


def check_images(images: Any) -> None:
    """See that images are what a backbone takes, when a program is traced.

    Raises:
        InputError: They are not `(B, H, W, 3)` uint8; the line says how to make them so.
    """
    if not hasattr(images, "dtype") or not hasattr(images, "shape"):
        raise InputError(
            f"images are a {type(images).__name__}: give one array (B, H, W, 3) of uint8"
        )
    shape = tuple(images.shape)
    if images.dtype != jnp.uint8:
        raise InputError(
            f"images are {images.dtype}: give uint8 pixels, 0 to 255; if they are floats from 0 to "
            '1, np.rint(images * 255).astype("uint8")'
        )
    if len(shape) == 3 and shape[-1] == 3:
        raise InputError(f"images are {shape}: give (B, H, W, 3), one image as image[None]")
    if len(shape) == 4 and shape[1] == 3 != shape[3]:
        raise InputError(
            f"images are {shape}: give (B, H, W, 3), channels last: images.transpose(0, 2, 3, 1)"
        )
    if len(shape) != 4 or shape[-1] != 3:
        raise InputError(f"images are {shape}: give (B, H, W, 3), red, green and blue")
    if 0 in shape:
        raise InputError(f"images are {shape}: there is nothing to look at")


def pick(features: Features, names: Sequence[str]) -> list[Array]:
    """Return the named features, in this order.

    Raises:
        InputError: One is missing.
    """
    for name in names:
        if name not in features:
            raise InputError(f"no feature {name!r}; there are {sorted(features)}")
    return [features[name] for name in names]


class Scores(NamedTuple):
    """Anomaly scores, higher is more anomalous, raw (never scaled per image)."""

    map: Array
    """`(B, H, W)` float32, at the resolution of the input images."""
    image: Array
    """`(B,)` float32."""


class Routed(NamedTuple):
    """`Scores`, and the subclass that a method took each image for."""

    map: Array
    """As in `Scores`."""
    image: Array
    """As in `Scores`."""
    subclass: Array
    """`(B,)` int32, which of the subclasses that were learnt."""


class Level(NamedTuple):
    """What a backbone yields at one level."""

    channels: int
    stride: int
    """Input pixels per feature position, along each axis; 0: one position for the whole image."""


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How the pixels of one set of weights are prepared: `(x * scale - mean) / std`, per channel.

    It belongs to the weights, so two backbones of one detector may differ.
    """

    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channels: str = "RGB"
    """Order that the network reads, "RGB" or "BGR"; `mean` and `std` are in this order."""
    resize: str = "bilinear"
    """The filter the weights were trained with, used where a configuration names none."""

    def __call__(self, images: Array) -> Array:
        """Turn `(B, H, W, 3)` uint8 RGB pixels into `(B, H, W, 3)` float32 network input."""
        x = images.astype(jnp.float32)
        if self.channels == "BGR":
            x = x[..., ::-1]
        mean = jnp.asarray(self.mean, jnp.float32).reshape(1, 1, 1, 3)
        std = jnp.asarray(self.std, jnp.float32).reshape(1, 1, 1, 3)
        return (x * jnp.float32(self.scale) - mean) / std


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen feature extractor: a linen module, its levels as data, its preprocessing."""

    name: str
    module: nn.Module
    """Maps `(B, H, W, 3)` float32 to `Features` with exactly the keys of `levels`."""
    levels: Mapping[str, Level]
    """In order of depth; nothing above the last one is built or computed."""
    preprocess: Preprocess
    patch: int = 1
    """Height and width of images are multiples of this."""

    def features(self, variables: Variables, images: Array) -> Features:
        """Map `(B, H, W, 3)` uint8 RGB images to their feature maps, preprocessing included.

        Raises:
            InputError: The images are of another type or shape, too small for the network, or do
                not divide into its patches.
        """
        check_images(images)
        self._check_patches(images)
        try:
            features = self._apply(variables, images)
        except Exception as error:
            self._check_size(variables, images, error)
            raise
        if any(0 in value.shape for value in features.values()):
            self._check_size(variables, images)
        return features

    def least_size(self, variables: Variables) -> int:
        """The least height and width of images that reach every level; nothing is computed.

        Raises:
            InputError: None up to 1024 pixels does.
        """
        if self.patch > 1:
            return self.patch
        spec = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)

        def fits(size: int) -> bool:
            image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
            try:
                found = jax.eval_shape(self._apply, spec, image)
            except Exception:  # a network may fail in any way on what is too small for it
                return False
            return not any(0 in value.shape for value in found.values())

        low, high = 0, 1  # the largest that is known not to fit, the least that may
        while not fits(high):
            low, high = high, 2 * high
            if high > 1024:
                raise InputError(f"backbone {self.name} takes no image of up to {low} pixels")
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        return high

    def _apply(self, variables: Variables, images: Array) -> Features:
        x = self.preprocess(images)
        dtype = jax.tree.leaves(variables["params"])[0].dtype
        features: Features = self.module.apply(variables, x.astype(dtype))
        return {name: value.astype(jnp.float32) for name, value in features.items()}

    def _check_patches(self, images: Array) -> None:
        """See that images divide into patches.

        Raises:
            InputError: They do not; the line names the nearest sizes that do.
        """
        height, width = images.shape[1:3]
        nearest = []
        for side in dict.fromkeys((height, width)):
            below = side // self.patch * self.patch
            if below != side:
                sizes = (below, below + self.patch)
                nearest.append(f"{' or '.join(str(n) for n in sizes if n)} for {side}")
        if nearest:
            raise InputError(
                f"images of {height} x {width} pixels do not divide into {self.name}'s patches of "
                f"{self.patch} x {self.patch}: take {', '.join(nearest)} (data.image_size)"
            )

    def _check_size(
        self, variables: Variables, images: Array, error: Exception | None = None
    ) -> None:
        """See that images on which the network failed are not just too small.

        Raises:
            InputError: They are.
        """
        height, width = images.shape[1:3]
        try:
            least = self.least_size(variables)
        except InputError:  # of no size that there is: the network has another fault
            return
        if min(height, width) < least:
            raise InputError(
                f"images of {height} x {width} pixels are too small for {self.name}: its level "
                f"{list(self.levels)[-1]} needs at least {least} x {least} (data.image_size)"
            ) from error


class Aux(NamedTuple):
    """What a loss yields beside its value."""

    updates: Variables
    """New values of the collections that are not trained by gradient, e.g. "batch_stats"."""
    metrics: Metrics


class Images(Protocol):
    """All training images, in pairs `(features, batch)` as a loss takes them, one at a time.

    Maps `(1, h, w, C)`, labels `(1,)`. They may be gone through more than once; where features are
    not kept, each time costs what computing them does.
    """

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[tuple[Features, Mapping[str, Any]]]: ...


class Method(NamedTuple):
    """An anomaly detection method as pure functions of features, in the manner of optax."""

    init: Callable[[Array, Features], Variables]
    """`init(rng, features) -> variables`, of zeros shaped as one image's features, `(1, h, w, C)`.
    Called under `jit`, which leaves out what the variables do not depend on."""
    loss: Callable[[Variables, Features, Mapping[str, Array], Array], tuple[Array, Aux]]
    """`loss(variables, features, batch, rng) -> (scalar, aux)`, in training mode.

    `batch["element"]`, `(B,)` int32, has the places of images or drawn positions in the batch over
    all devices: noise goes by them (`jaxad.ops.noise`). `batch["subclass"]`, `(B,)` int32."""
    score: Callable[..., Scores]
    """`score(variables, features, *, size) -> Scores` with maps of `size = (H, W)`."""
    optimizer: Callable[[int], optax.GradientTransformation]
    """`optimizer(steps)`: the recipe's chain for a run of that many steps."""
    finalize: Callable[[Variables, Images], Variables] | None = None
    """`finalize(variables, images)`: statistics from passes over the training images."""
    fold: Callable[[Variables], Variables] | None = None
    """`fold(variables)`: a form of them that gives equal scores faster, and serves `score` alone
    (BatchNorm folded, linear layers merged). A pure function, for `jit` too."""
    schedules: Callable[[int], Mapping[str, optax.ScalarOrSchedule]] | None = None
    """`schedules(steps)`: the learning rates in `optimizer(steps)` by name, numbers or functions of
    the step. They are logged; None: there is nothing to log."""
    observe: Callable[[Variables, Images], Variables] | None = None
    """`observe(variables, images)`: as `finalize`, before the first step: what the loss reads."""
    grows: frozenset[str] = frozenset()
    """Collections whose arrays `finalize` gives as many rows (first axis) as training images make:
    all else of them, and of other collections, is as `init` has it."""
    route: Callable[[Variables, Features], Array] | None = None
    """`route(variables, features)`: which of the subclasses that it learnt it takes each image for,
    `(B,)` int32; `score` judges by that one. None: it knows none."""
    update: Callable[..., Variables] | None = None
    """`update(variables, images, *, stay) -> variables`: learn further images and forget some of
    those that were learnt, `stay` `(n,)` bool; afterwards what has stayed is counted first."""


def without_steps(
    init: Callable[[Array, Features], Variables],
    score: Callable[..., Scores],
    finalize: Callable[[Variables, Images], Variables],
    *,
    grows: Iterable[str] = (),
    fold: Callable[[Variables], Variables] | None = None,
    update: Callable[..., Variables] | None = None,
) -> Method:
    """Make a `Method` that learns by `finalize` alone: its recipe has no phases.

    Its loss and its optimizer raise InputError.
    """

    def no_steps(*args: Any) -> Any:
        raise InputError("this method learns without steps: it has no loss and no optimizer")

    return Method(
        init, no_steps, score, no_steps, finalize, fold, grows=frozenset(grows), update=update
    )
