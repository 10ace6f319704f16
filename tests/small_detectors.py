"""Detectors of all methods on small networks, for tests of what scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxad.backbones.pixels import pixels
from jaxad.backbones.weights import init_backbone
from jaxad.config import parse_config
from jaxad.core import Backbone, Level, Preprocess
from jaxad.detector import Detector
from jaxad.methods.mixture import Routed, mixture
from jaxad.methods.padim import padim
from jaxad.methods.patchcore import patchcore
from jaxad.methods.routing import Router, routing
from jaxad.methods.spade import spade
from jaxad.recipes.build import models
from jaxad.recipes.recipe import Backbones
from jaxad.recipes.simplenet import patched

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SIZE = (32, 48)
LEVELS = {f"layer{n}": Level(4 + n, 2**n) for n in (1, 2, 3, 4)}
AFRAD = ("method.width=(4,4,4,4)", "method.decoder_width=8", "method.pooling=4")
SETTINGS = {
    "pfm": ("mb_pfm_fast.py", ("method.latent=(8,8,8)",), 3),
    "afrad": (
        "afrad_fast.py:small",
        (
            *AFRAD,
            "method.hidden=((1,2,3),(4,))",
            "method.map_length=0.5",
            "method.image_stages=(3,4)",
        ),
        4,
    ),
    "simplenet": ("simplenet_fast.py", ("method.embedding=32", "method.hidden=16"), 2),
    "adapted_moe": (
        "adapted_moe.py:magnetic_tile",
        ("method.embedding=32", "method.hidden=16", "method.router_width=8"),
        2,
    ),
    "rd4ad": ("rd4ad.py:resnet18", ("method.blocks=(1,1,1,1)", "method.smoothing=1.0"), 3),
    "uniad": (
        "uniad.py:cpu",
        (
            "method.width=8",
            "method.heads=2",
            "method.inner=8",
            "method.layers=1",
            "method.stride=8",
            "method.neighbours=3",
        ),
        3,
    ),
    "stfpm": ("stfpm.py", (), 1),
}
"""Of methods that learn by steps: file, changes, and how many levels of the network it reads."""

NAMES = ("net/layer1", "net/layer2", "net/layer3")
ROUTER = Router(8, 3, True)
ROUTED = Routed(NAMES[2], ROUTER, routing(NAMES[2], ROUTER))
WITHOUT_STEPS = {
    "patchcore": patchcore(NAMES[0]),
    "patchcore, reweighted": patchcore(NAMES[0], neighbours=3, reweighting=4),
    "padim": padim(NAMES, dimensions=4),
    "padim, variances": padim(NAMES, dimensions=0, full=False),
    "spade": spade(NAMES[:2], pooled=NAMES[2], neighbours=3),
    "nearest": spade((), pooled=NAMES[2], neighbours=3, cosine=True),
    "experts": mixture(
        patchcore(NAMES[0]),
        NAMES[:1],
        ROUTED,
        count=3,
        size=SIZE,
        trained=False,
        adaption=None,
        k=2,
    ),
}
GROWN = {"bank": 30, "gallery": 7}
"""How many vectors, or photos, a test's detector has learnt."""


class Net(nn.Module):
    """A few strided convolutions."""

    levels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        found = {}
        for name, level in list(LEVELS.items())[: self.levels]:
            x = nn.relu(nn.Conv(level.channels, (3, 3), strides=2, name=name)(x))
            found[name] = x
        return found


def network(levels: int, seed: int) -> tuple[Backbone, Any]:
    known = dict(list(LEVELS.items())[:levels])
    variables = Net(levels).init(jax.random.key(seed), jnp.zeros((1, *SIZE, 3)))
    return Backbone("net", Net(levels), known, Preprocess()), variables


def detector_of(name: str) -> Any:
    file, changes, levels = SETTINGS[name]
    config = parse_config(["--config", str(CONFIGS / file), *(f"--config.{c}" for c in changes)])
    roles = ("source", "target") if name == "pfm" else ("backbone",)
    found = {role: network(levels, n) for n, role in enumerate(roles)}
    if name == "stfpm":  # whose student is a ResNet
        teacher = init_backbone("resnet18", jax.random.key(0), levels=("layer1",))
        found = {"teacher": teacher, "pixels": pixels()}
    if name in ("simplenet", "adapted_moe"):
        found = {role: patched(*pair, width=32) for role, pair in found.items()}
    networks, frozen = ({role: pair[i] for role, pair in found.items()} for i in (0, 1))
    backbones = Backbones(networks, frozen, {})
    return models(config, backbones)(2).detector, frozen


def without_steps(name: str) -> Any:
    """A detector that learns without steps, and its variables."""
    net, frozen = network(3, 0)
    detector = Detector({"net": net}, WITHOUT_STEPS[name])
    return detector, trained(detector, {"net": frozen})


def trained(detector: Any, frozen: Any, seed: int = 1) -> Any:
    """Statistics and weights as training leaves them: no zeros, no ones."""
    r = np.random.default_rng(seed)

    def of(path: Any, leaf: Any) -> Any:
        name, shape = path[-1].key, leaf.shape
        grown = [count for key, count in GROWN.items() if key in {part.key for part in path}]
        shape = (*grown, *shape[len(grown) :])
        if name in ("var", "std", "scale"):
            return jnp.asarray(r.uniform(0.5, 1.5, shape), leaf.dtype)
        spread = np.prod(shape[:-1]) ** -0.5 if name == "kernel" else 0.1
        return jnp.asarray(spread * r.standard_normal(shape), leaf.dtype)

    shapes = detector.feature_shapes(frozen, size=SIZE)
    method = jax.eval_shape(detector.method.init, jax.random.key(0), shapes)
    return {"backbones": frozen, "method": jax.tree_util.tree_map_with_path(of, method)}


def photos(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), np.uint8)
