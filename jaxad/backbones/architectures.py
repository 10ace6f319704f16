"""The table of backbones: name -> how to build it, its levels, and its usual preprocessing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import flax.linen as nn

from jaxad.backbones import efficientnet, patch_description, resnet, vgg, vit
from jaxad.core import InputError, Level, Preprocess


@dataclasses.dataclass(frozen=True)
class Variant:
    """What ports of one network do in their own way: it belongs to the weights, like pixels."""

    epsilon: float = 1e-5
    """Of BatchNorm; of a vision transformer's LayerNorm."""
    padding: int | Literal["same", "symmetric"] = "symmetric"
    """Zeros around strided convolutions: alike on both sides; TensorFlow's "SAME" for the input at
    hand; or the "SAME" of images of this many pixels, whatever the input (EfficientNet only)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Architecture:
    """A backbone without weights."""

    name: str
    make: Callable[..., nn.Module]
    """`make(levels=, folded=, variant=)`; call `build`."""
    levels: Mapping[str, Level]
    """All levels, in order of depth."""
    default_levels: tuple[str, ...]
    """What the papers read."""
    variant: Variant
    """Of its usual weights; a weight file's own word goes before it."""
    preprocess: Preprocess
    """What its usual weights were trained with; a weight file's own word goes before it."""
    patch: int = 1
    """Height and width of images are multiples of this."""

    def build(
        self, *, levels: tuple[str, ...], folded: bool, variant: Variant | None = None
    ) -> nn.Module:
        """Make the module up to the deepest of `levels`.

        Raises:
            InputError: The network has only one way of padding, and `variant` names another.
        """
        variant = variant or self.variant
        if self.variant.padding == "symmetric" != variant.padding:
            raise InputError(f"backbone {self.name} pads symmetrically, not by {variant.padding!r}")
        return self.make(levels=levels, folded=folded, variant=variant)

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
            usual = ", ".join(self.default_levels)
            raise InputError(
                f"backbone {self.name} has {what}; choose from {have} (the usual ones: {usual})"
            )
        return tuple(level for level in self.levels if level in asked)


IMAGENET = Preprocess()
CAFFE = Preprocess(scale=1.0, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), channels="BGR")
LITE = Preprocess(mean=(0.498, 0.498, 0.498), std=(0.502, 0.502, 0.502))


def _resnet(
    name: str,
    *blocks: int,
    bottleneck: bool,
    default_levels: tuple[str, ...] = ("layer1", "layer2", "layer3"),
    preprocess: Preprocess = IMAGENET,
    epsilon: float = 1e-5,
    **shape: int | bool,
) -> Architecture:
    def make(*, levels: tuple[str, ...], folded: bool, variant: Variant) -> nn.Module:
        return resnet.ResNet(
            blocks=blocks,
            bottleneck=bottleneck,
            levels=levels,
            epsilon=variant.epsilon,
            folded=folded,
            **shape,
        )

    return Architecture(
        name=name,
        make=make,
        levels=resnet.levels_of(bottleneck=bottleneck),
        default_levels=default_levels,
        variant=Variant(epsilon=epsilon),
        preprocess=preprocess,
    )


def _vgg(name: str) -> Architecture:
    batch_norm = name.endswith("_bn")
    convolutions = vgg.CONVOLUTIONS[name.removesuffix("_bn")]

    def make(*, levels: tuple[str, ...], folded: bool, variant: Variant) -> nn.Module:
        folded = folded or not batch_norm
        return vgg.VGG(convolutions, levels=levels, epsilon=variant.epsilon, folded=folded)

    return Architecture(
        name=name,
        make=make,
        levels=vgg.levels_of(),
        default_levels=("block3", "block4", "block5"),
        variant=Variant(),
        preprocess=IMAGENET,
    )


def _efficientnet(
    name: str, width: float, depth: float, native_size: int, *, lite: bool = False
) -> Architecture:
    stages = efficientnet.scaled_stages(width=width, depth=depth, scale_ends=not lite)
    head_channels = 1280 if lite else efficientnet.round_channels(1280, width)

    def make(*, levels: tuple[str, ...], folded: bool, variant: Variant) -> nn.Module:
        return efficientnet.EfficientNet(
            stages=stages,
            levels=levels,
            padding=variant.padding,
            stem_channels=32 if lite else efficientnet.round_channels(32, width),
            head_channels=head_channels,
            squeeze=not lite,
            activation=nn.relu6 if lite else nn.swish,
            epsilon=variant.epsilon,
            folded=folded,
        )

    return Architecture(
        name=name,
        make=make,
        levels=efficientnet.levels_of(stages, head_channels=head_channels),
        # AFRAD's (and UniAD's) four stages; Lite stands in for ResNets in PFM.
        default_levels=("stage2", "stage3", "stage5")
        if lite
        else ("stage1", "stage2", "stage3", "stage5"),
        variant=Variant(epsilon=1e-3, padding=native_size),
        preprocess=LITE if lite else IMAGENET,
    )


def _patch_description(name: str, channels: int) -> Architecture:
    def make(*, levels: tuple[str, ...], folded: bool, variant: Variant) -> nn.Module:
        del levels, folded, variant  # there is one level, and no BatchNorm
        return patch_description.FrozenPatchDescription(channels)

    return Architecture(
        name=name,
        make=make,
        levels=patch_description.levels_of(channels=channels),
        default_levels=(patch_description.PATCHES,),
        variant=Variant(),
        preprocess=IMAGENET,
    )


def _vit(
    name: str,
    channels: int,
    *,
    heads: int,
    patch: int,
    trained: int,
    default_levels: tuple[str, ...],
    registers: int = 0,
    **shape: bool,
) -> Architecture:
    def make(*, levels: tuple[str, ...], folded: bool, variant: Variant) -> nn.Module:
        del folded  # there is no BatchNorm
        return vit.VisionTransformer(
            channels=channels,
            heads=heads,
            patch=patch,
            trained=trained,
            registers=registers,
            levels=levels,
            epsilon=variant.epsilon,
            **shape,
        )

    return Architecture(
        name=name,
        make=make,
        levels=vit.levels_of(channels=channels, patch=patch),
        default_levels=default_levels,
        variant=Variant(epsilon=1e-6),
        preprocess=Preprocess(resize="bicubic"),
        patch=patch,
    )


def _dinov2(name: str, channels: int, heads: int) -> Architecture:
    registers = 4 if name.endswith("_reg") else 0
    return _vit(
        name,
        channels,
        heads=heads,
        patch=14,
        trained=37,  # 518 pixels
        default_levels=("norm",),  # AnomalyDINO's
        registers=registers,
        layer_scale=True,
        offset=not registers,
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
        _resnet(
            "wide_resnet50_2",
            *(3, 4, 6, 3),
            bottleneck=True,
            width_per_group=128,
            default_levels=("layer2", "layer3"),  # SimpleNet's
        ),
        _vgg("vgg16"),
        _vgg("vgg19"),
        _vgg("vgg16_bn"),
        _vgg("vgg19_bn"),
        # Width, depth and training size: efficientnet_builder of the TensorFlow release.
        _efficientnet("efficientnet_b0", 1.0, 1.0, 224),
        _efficientnet("efficientnet_b1", 1.0, 1.1, 240),
        _efficientnet("efficientnet_b2", 1.1, 1.2, 260),
        _efficientnet("efficientnet_b3", 1.2, 1.4, 300),
        _efficientnet("efficientnet_b4", 1.4, 1.8, 380),
        _efficientnet("efficientnet_b5", 1.6, 2.2, 456),
        _efficientnet("efficientnet_b6", 1.8, 2.6, 528),
        _efficientnet("efficientnet_b7", 2.0, 3.1, 600),
        _efficientnet("efficientnet_lite0", 1.0, 1.0, 224, lite=True),
        _efficientnet("efficientnet_lite1", 1.0, 1.1, 240, lite=True),
        _efficientnet("efficientnet_lite2", 1.1, 1.2, 260, lite=True),
        _efficientnet("efficientnet_lite3", 1.2, 1.4, 280, lite=True),
        _efficientnet("efficientnet_lite4", 1.4, 1.8, 300, lite=True),
        _patch_description("pdn_small", 384),
        _dinov2("dinov2_vits14", 384, 6),
        _dinov2("dinov2_vits14_reg", 384, 6),
        _dinov2("dinov2_vitb14", 768, 12),
        _dinov2("dinov2_vitb14_reg", 768, 12),
        _vit(
            "deit_small_patch16",
            384,
            heads=6,
            patch=16,
            trained=14,  # 224 pixels
            default_levels=("block3", "block6", "block9"),  # of three depths, as the others'
            layer_scale=False,
            offset=False,
        ),
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
