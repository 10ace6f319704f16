"""A detector: frozen backbones composed with a method, as pure functions of uint8 images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxad.core import (
    Array,
    Aux,
    Backbone,
    Features,
    InputError,
    Method,
    Routed,
    Scores,
    Variables,
    check_images,
)
from jaxad.ops.chunk import by_image
from jaxad.ops.precision import rounded


class Cost(NamedTuple):
    """What a detector holds and computes."""

    trained: int
    """Parameters that are trained by steps."""
    frozen: int
    """Parameters of the backbones, up to the last level that is read."""
    gflop: float | None
    """Floating-point operations to score one image, 1e9; a multiply-add counts as two. None where
    XLA does not count them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Detector:
    """Backbones ∘ method.

    Its variables are `{"backbones": {role: ...}, "method": ...}`; only the method's are trained.
    """

    backbones: Mapping[str, Backbone]
    """By role: PFM has "source" and "target"."""
    method: Method

    def features(self, variables: Variables, images: Array) -> Features:
        """Map `(B, H, W, 3)` uint8 images to all feature maps, named `role/level`.

        Raises:
            InputError: The images are of another type or shape, or too small for a network.
        """
        check_images(images)
        found: Features = {}
        for role, backbone in self.backbones.items():
            frozen = variables["backbones"][role]
            with jax.named_scope(f"backbone/{role}"):
                maps = by_image(functools.partial(backbone.features, frozen), images)
            found |= {f"{role}/{level}": value for level, value in maps.items()}
        return found

    def feature_shapes(self, backbones: Variables, *, size: tuple[int, int]) -> Any:
        """Shapes and dtypes of one image's features, `size = (H, W)`; nothing is computed."""
        image = jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)
        return jax.eval_shape(self.features, {"backbones": backbones}, image)

    def init(self, rng: Array, backbones: Variables, *, size: tuple[int, int]) -> Variables:
        """Make the detector's variables from those of its backbones, for images of `(H, W)`."""
        shapes = self.feature_shapes(backbones, size=size)

        @jax.jit
        def initialise(rng: Array) -> Variables:
            zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}
            return self.method.init(rng, zeros)

        return {"backbones": backbones, "method": initialise(rng)}

    def cost(self, backbones: Variables, *, size: tuple[int, int]) -> Cost:
        """Count parameters and operations for images of `size = (H, W)`; nothing is computed.

        What grows with the training images (`Method.grows`) is counted as `init` makes it.
        """
        image = jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)
        rng = jax.random.key(0)
        variables = jax.eval_shape(lambda b: self.init(rng, b, size=size), backbones)
        trained, frozen = (
            sum(leaf.size for leaf in jax.tree.leaves(tree))
            for tree in (
                variables["method"].get("params", {}),
                [network["params"] for network in variables["backbones"].values()],
            )
        )
        # Lowered as for a GPU, whatever is here: loops, which a CPU gets, are counted once.
        lowered = jax.jit(self.score).trace(variables, image).lower(lowering_platforms=("cuda",))
        counted = lowered.cost_analysis() or {}
        gflop = counted["flops"] / 1e9 if "flops" in counted else None
        return Cost(trained, frozen, gflop)

    def fold(self, variables: Variables, *, dtype: str = "float32") -> Variables:
        """Bring variables into a form that gives equal scores faster, and serves `score` alone.

        A pure function of arrays, for `jit` too.

        Args:
            variables: As trained.
            dtype: Of weights and features, "float32" or "bfloat16"; score maths, normalisation and
                the choice of experts stay float32.
        """
        method = variables["method"]
        if self.method.fold is not None:
            method = self.method.fold(method)
        return rounded({"backbones": variables["backbones"], "method": method}, dtype)

    def loss(
        self, variables: Variables, frozen: Variables, batch: Mapping[str, Array], rng: Array
    ) -> tuple[Array, Aux]:
        """The method's training loss on `batch["image"]`, `(B, H, W, 3)` uint8.

        Args:
            variables: The method's own, all that a training state holds.
            frozen: The backbones', by role.
            batch: The images, and what `Method.loss` reads beside features.
            rng: Key of this step.
        """
        features = self.features({"backbones": frozen}, batch["image"])
        return self.method.loss(variables, features, batch, rng)

    def score(self, variables: Variables, images: Array) -> Scores:
        """Score `(B, H, W, 3)` uint8 images: maps `(B, H, W)`, image scores `(B,)`.

        Evaluation, prediction, export and benchmarks all call exactly this function.

        Raises:
            InputError: The images are of another type or shape, or too small for a network.
        """
        return self._score(variables, self.features(variables, images), images)

    def routed(self, variables: Variables, images: Array) -> Routed:
        """As `score`, and which of the subclasses that were learnt each image was taken for.

        Raises:
            InputError: As `score`, or the method has no `route`.
        """
        if self.method.route is None:
            raise InputError("this method takes images for no subclasses: use Detector.score")
        features = self.features(variables, images)
        found = self._score(variables, features, images)
        subclass = self.method.route(variables["method"], features)
        return Routed(found.map, found.image, subclass.astype(jnp.int32))

    def _score(self, variables: Variables, features: Features, images: Array) -> Scores:
        height, width = images.shape[1:3]
        return self.method.score(variables["method"], features, size=(height, width))
