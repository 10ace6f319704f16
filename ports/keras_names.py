"""ResNet-50 weights with the layer names of Keras (`conv2_block1_1_conv.weight`, `…_bn.gamma`)."""

from __future__ import annotations

import re

from ports.converted import Converted, Naming, State, gather, refuse_other

ARCHITECTURES = ("resnet50_keras",)
LICENCE = "MIT"
"""Of He et al.'s release, which the weights in Keras were ported from."""

_LEAVES = {
    "conv": {"kernel": "weight", "bias": "bias"},
    "bn": {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"},
}
_IGNORED = re.compile(r"^(predictions|probs|fc1000)\.")


def convert(architecture: str, state: State) -> Converted:
    """Convert the arrays of Keras' ResNet-50 (version 1).

    Every convolution has a bias before its BatchNorm; it goes into the running mean.

    Args:
        architecture: "resnet50_keras".
        state: Array name -> array; kernels OIHW, or HWIO as Keras stores them.

    Raises:
        InputError: Another architecture, or arrays missing, unknown or misshapen.
    """
    refuse_other(architecture, ARCHITECTURES, "Keras")
    naming = Naming(
        framework="Keras",
        array=_name,
        statistics=".moving_mean",
        ignored=_IGNORED,
        bias_before_norm=True,
        hwio=True,
    )
    return gather(architecture, state, naming)


def _name(path: tuple[str, ...]) -> str:
    """`params, layer1_0, conv2, bn, scale` -> `conv2_block1_2_bn.gamma`."""
    *block, module, kind, leaf = path[1:]
    if block:
        stage, place = (int(digits) for digits in re.findall(r"\d+", block[0]))
        number = "0" if module == "downsample" else module.removeprefix("conv")
        layer = f"conv{stage + 1}_block{place + 1}_{number}"
    else:
        layer = module
    return f"{layer}_{kind}.{_LEAVES[kind][leaf]}"
