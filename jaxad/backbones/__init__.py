"""Frozen feature extractors: architectures as data, weights from files."""

from jaxad.backbones.architectures import ARCHITECTURES, Architecture, Variant
from jaxad.backbones.weights import init_backbone, load_backbone
from jaxad.ops.fold import fold_batch_norm

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Variant",
    "fold_batch_norm",
    "init_backbone",
    "load_backbone",
]
