"""Pixels as one more feature, `image` at stride 1: for methods whose own network sees the photo.

They stay uint8, as they were read: kept for a whole training they take a quarter of float32's
memory. The network that sees them prepares them, by the `Preprocess` that comes along.
"""

from __future__ import annotations

import flax.linen as nn

from jaxad.core import Array, Backbone, Features, Level, Preprocess, Variables

IMAGE = "image"


class Pixels(Backbone):
    """A backbone that computes nothing."""

    def _apply(self, variables: Variables, images: Array) -> Features:
        del variables
        return {IMAGE: images}


def pixels(preprocess: Preprocess | None = None) -> tuple[Backbone, Variables]:
    """Make the backbone whose one level `image` is the photo, `(B, H, W, 3)` uint8.

    Args:
        preprocess: How a network is to prepare them, which is left to it; None: as those that
            were trained on ImageNet.

    Returns:
        The backbone and its variables, of which there are none.
    """
    levels = {IMAGE: Level(channels=3, stride=1)}
    return Pixels("pixels", nn.Module(), levels, preprocess or Preprocess()), {"params": {}}
