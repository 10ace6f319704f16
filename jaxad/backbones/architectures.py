"""The table of backbones: name -> how to build it, its levels, and its usual preprocessing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import flax.linen as nn

from jaxad.backbones import efficientnet, resnet, vgg
from jaxad.core import InputError, Level, Preprocess


@dataclasses.dataclass(frozen=True, eq=False)
class Architecture:
    """A backbone without weights."""

    name: str
    build: Callable[..., nn.Module]
    """`build(levels=..., folded=...)`: the module up to the deepest of `levels`."""
    levels: Mapping[str, Level]
    """All levels, in order of depth."""
    default_levels: tuple[str, ...]
    """What the papers read."""
    epsilon: float
    """Of BatchNorm."""
    preprocess: Preprocess
    """What its usual weights were trained with; a weight file's own word goes before it."""

    def check_levels(self, levels: Iterable[str] | None) -> tuple[str, ...]:
        """Return `levels` in order of depth, the default ones for None.

        Raises:
            InputError: A level is unknown, or none is asked for.
        """
        asked = self.default_levels if levels is None else tuple(levels)
        unknown = [level for level in asked if level not in self.levels]
        if unknown or not asked:
            have = ", ".join(self.levels)
            what = f"no level {', '.join(map(repr, unknown))}" if unknown else "at least one level"
            raise InputError(f"backbone {self.name} has {what}; choose from {have}")
        return tuple(level for level in self.levels if level in asked)


IMAGENET = Preprocess()
CAFFE = Preprocess(scale=1.0, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), channels="BGR")
LITE = Preprocess(mean=(0.498, 0.498, 0.498), std=(0.502, 0.502, 0.502))


def _resnet(
    name: str,
    *blocks: int,
    bottleneck: bool,
    preprocess: Preprocess = IMAGENET,
    epsilon: float = 1e-5,
    **variant: int | bool,
) -> Architecture:
    return Architecture(
        name=name,
        build=partial(
            resnet.ResNet, blocks=blocks, bottleneck=bottleneck, epsilon=epsilon, **variant
        ),
        levels=resnet.levels_of(bottleneck=bottleneck),
        default_levels=("layer1", "layer2", "layer3"),
        epsilon=epsilon,
        preprocess=preprocess,
    )


def _vgg(name: str) -> Architecture:
    batch_norm = name.endswith("_bn")
    convolutions = vgg.CONVOLUTIONS[name.removesuffix("_bn")]

    def build(*, levels: tuple[str, ...], folded: bool) -> nn.Module:
        return vgg.VGG(convolutions, levels=levels, folded=folded or not batch_norm)

    return Architecture(
        name=name,
        build=build,
        levels=vgg.levels_of(),
        default_levels=("block3", "block4", "block5"),
        epsilon=1e-5,
        preprocess=IMAGENET,
    )


def _lite(name: str, width: float, depth: float, native_size: int) -> Architecture:
    stages = efficientnet.scaled_stages(width=width, depth=depth, scale_ends=False)
    return Architecture(
        name=name,
        build=partial(
            efficientnet.EfficientNet, stages=stages, padding_size=native_size, epsilon=1e-3
        ),
        levels=efficientnet.levels_of(stages),
        default_levels=("stage2", "stage3", "stage5"),
        epsilon=1e-3,
        preprocess=LITE,
    )


ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        _resnet("resnet18", 2, 2, 2, 2, bottleneck=False),
        _resnet("resnet34", 3, 4, 6, 3, bottleneck=False),
        _resnet("resnet50", 3, 4, 6, 3, bottleneck=True),
        _resnet(
            "resnet50_keras",
            *(3, 4, 6, 3),
            bottleneck=True,
            stride_in_1x1=True,
            preprocess=CAFFE,
            epsilon=1.001e-5,
        ),
        _vgg("vgg16"),
        _vgg("vgg19"),
        _vgg("vgg16_bn"),
        _vgg("vgg19_bn"),
        # Width, depth and training size: efficientnet_lite_builder of the TensorFlow release.
        _lite("efficientnet_lite0", 1.0, 1.0, 224),
        _lite("efficientnet_lite1", 1.0, 1.1, 240),
        _lite("efficientnet_lite2", 1.1, 1.2, 260),
        _lite("efficientnet_lite3", 1.2, 1.4, 280),
        _lite("efficientnet_lite4", 1.4, 1.8, 300),
    )
}


def architecture(name: str) -> Architecture:
    """Look up an architecture.

    Raises:
        InputError: There is none of that name.
    """
    if name not in ARCHITECTURES:
        raise InputError(f"no backbone {name!r}; choose from {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
