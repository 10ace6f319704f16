"""The detectors that are timed: every method and baseline, at the size that its paper published.

Random weights serve as well as real ones for speed, and need no files; accuracy is measured
elsewhere (`benchmarks.accuracy`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxad.config import parse_config
from jaxad.core import Variables
from jaxad.detector import Detector
from jaxad.ops.layers import BatchNorm
from jaxad.recipes.build import build_backbones, models


class Subject(NamedTuple):
    """A detector to be timed, and what its paper says of its speed."""

    config: str
    """Configuration file, with its setting."""
    changes: tuple[str, ...] = ()
    """`key=value` of configuration keys."""
    paper_fps: float | None = None
    paper_device: str | None = None


PFM = "configs/mb_pfm.py"
SUBJECTS = {
    "pfm": Subject(PFM, ("method.bidirectional=False", "method.levels=(3,)"), 23.5, "GTX 1660"),
    "b_pfm": Subject(PFM, ("method.levels=(3,)",), 23.3, "GTX 1660"),
    "mb_pfm": Subject(PFM, (), 14.5, "GTX 1660"),
    "mb_pfm_fast": Subject("configs/mb_pfm_fast.py"),
    "mb_pfm_lite": Subject("configs/mb_pfm_lite.py"),
    "afrad": Subject("configs/afrad.py:mvtec", (), 40.8, "RTX 4090"),
    "afrad_fast": Subject("configs/afrad_fast.py"),
    "simplenet": Subject("configs/simplenet.py", (), 77.0, "RTX 3080 Ti"),
    "adapted_moe": Subject("configs/adapted_moe.py:cloth"),
    "adapted_moe_fast": Subject("configs/adapted_moe.py:magnetic_tile"),
}
"""By the name that stands in results. `pfm` and `b_pfm` are cases 1 and 2 of PFM's Table VII,
of level 3 alone; `mb_pfm` has all levels. AFRAD's paper has 24.5 ms per image at batch 1."""
EXPERTS = 4
"""Of Adapted-MoE."""


def configure(name: str, *, image_size: tuple[int, int] | None = None) -> ConfigDict:
    """Read the configuration of a subject, with random weights."""
    subject = SUBJECTS[name]
    changes = [*subject.changes, "method.random_weights=True"]
    if image_size:
        changes.append(f"data.image_size={image_size}")
    flags = [f"--config.{change}" for change in changes]
    return parse_config(["--config", subject.config, *flags])


def build(config: ConfigDict) -> tuple[Detector, Variables]:
    """Make a detector, and variables as they might be after training, ready to score."""
    backbones = build_backbones(config)
    detector = models(config, backbones)(EXPERTS).detector
    shapes = detector.feature_shapes(backbones.variables, size=tuple(config.data.image_size))
    drawn = fill(
        jax.eval_shape(detector.method.init, jax.random.key(0), shapes), seed=config.train.seed
    )
    return detector, {"backbones": backbones.variables, "method": drawn}


def fill(shapes: Any, *, seed: int) -> Any:
    """Draw variables of these shapes on the host: a method's own `init` compiles for seconds."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> jax.Array:
        name, shape = path[-1].key, leaf.shape
        if name in ("scale", "var", "std"):
            values = rng.uniform(0.5, 1.5, shape)
        else:
            fan_in = np.prod(shape[:-1]) if name == "kernel" else 100
            values = rng.standard_normal(shape) * fan_in**-0.5
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def trained_like(
    detector: Detector, variables: Variables, *, seed: int, statistics: Any = None
) -> Variables:
    """Give a method's BatchNorm the statistics of a batch, and scales and biases of its own.

    Those that `build` draws fit no features, which would then hardly tell in the maps.
    Methods without BatchNorm come back as they are.

    Args:
        detector: Whose method it is.
        variables: Of `build`.
        seed: Of what is drawn.
        statistics: The `batch_stats` that an earlier call found; None computes them.
    """
    method = variables["method"]
    if not jax.tree.leaves(method.get("batch_stats", {})):
        return variables
    rng = np.random.default_rng(seed)

    def vary(path: Any, leaf: Any) -> Any:
        names = [getattr(key, "key", "") for key in path]
        if names[-2] not in ("bn", "norm"):
            return leaf
        noise = rng.normal(0, 0.2, leaf.shape).astype(np.float32)
        return np.exp(noise) if names[-1] == "scale" else noise

    params = jax.tree_util.tree_map_with_path(vary, method["params"])
    if statistics is not None:
        return {**variables, "method": {**method, "params": params, "batch_stats": statistics}}
    zeros = jax.tree.map(np.zeros_like, method["batch_stats"])
    images = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)

    @jax.jit
    def found_in(backbones: Variables, method: Variables, images: Any) -> Variables:
        features = detector.features({"backbones": backbones}, images)
        _, aux = detector.method.loss(method, features, {}, jax.random.key(seed))
        # From zero, what a step keeps is the batch's own times the momentum.
        return jax.tree.map(lambda x: x / BatchNorm.momentum, aux.updates["batch_stats"])

    start = {**method, "params": params, "batch_stats": zeros}
    found = jax.device_get(found_in(variables["backbones"], start, images))
    return {**variables, "method": {**start, "batch_stats": found}}
