"""ResNet and VGG weights with torchvision's names (`layer1.0.conv1.weight`, `features.0.weight`).

BatchNorm may have been folded already (`conv1.weight` and `conv1.bias`, no `bn1`).
"""

from __future__ import annotations

import re

from jaxad.backbones.vgg import CONVOLUTIONS
from ports.converted import Converted, Naming, State, gather, refuse_other

ARCHITECTURES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "vgg16",
    "vgg19",
    "vgg16_bn",
    "vgg19_bn",
)
LICENCE = "BSD-3-Clause"
"""Of torchvision, which its weights are published with."""

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_IGNORED = re.compile(r"^(fc|classifier)\.|\.num_batches_tracked$")


def convert(architecture: str, state: State) -> Converted:
    """Convert a torchvision state dict.

    Args:
        architecture: One of `ARCHITECTURES`.
        state: Array name -> array; kernels OIHW.

    Raises:
        InputError: Another architecture, or arrays missing, unknown or misshapen.
    """
    refuse_other(architecture, ARCHITECTURES, "torchvision")
    vgg = architecture.startswith("vgg")

    def name(path: tuple[str, ...]) -> str:
        *scopes, kind, leaf = path[1:]
        module = _vgg_module(architecture, scopes[0], kind) if vgg else _resnet_module(scopes, kind)
        return f"{module}.{_LEAVES[leaf]}"

    naming = Naming(
        framework="torchvision",
        array=name,
        statistics=".running_mean",
        ignored=_IGNORED,
        bias_before_norm=vgg,
    )
    return gather(architecture, state, naming)


def _resnet_module(scopes: list[str], kind: str) -> str:
    """`layer1_0, conv2` and `bn` -> `layer1.0.bn2`."""
    *block, module = scopes
    if module == "downsample":
        module = "downsample.0" if kind == "conv" else "downsample.1"
    else:
        module = module.replace("conv", kind)
    return ".".join([scope.replace("_", ".") for scope in block] + [module])


def _vgg_module(architecture: str, scope: str, kind: str) -> str:
    """`block1_conv2` and `conv` -> `features.2` (`features.3` where BatchNorm stands between)."""
    depth, batch_norm = architecture.removesuffix("_bn"), architecture.endswith("_bn")
    block, place = (int(digits) for digits in re.findall(r"\d+", scope))
    step = 3 if batch_norm else 2  # convolution, (BatchNorm,) ReLU
    before = sum(n * step + 1 for n in CONVOLUTIONS[depth][: block - 1])  # 1: the pool
    return f"features.{before + (place - 1) * step + (kind == 'bn')}"
