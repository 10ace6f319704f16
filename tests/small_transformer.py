"""A tiny vision transformer with drawn weights, for tests of what reads one."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxad.backbones.vit import VisionTransformer, levels_of
from jaxad.core import Backbone, Preprocess


def transformer(levels: tuple[str, ...], *, registers: int = 0) -> tuple[Backbone, Any]:
    """Eight channels, two heads, patches of 4 x 4 pixels; photos of training had 2 x 2 of them."""
    module = VisionTransformer(
        channels=8,
        heads=2,
        patch=4,
        trained=2,
        registers=registers,
        layer_scale=True,
        offset=False,
        levels=levels,
    )
    photo = jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), photo)
    draw = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: 0.3 * draw.normal(size=leaf.shape).astype(np.float32), shapes
    )
    known = levels_of(channels=8, patch=4)
    table = {name: known[name] for name in levels}
    return Backbone("tiny", module, table, Preprocess(), patch=4), variables
