"""Our frozen networks as PyTorch modules with the same weights: the peer of `pytorch_peer`.

Written as PyTorch users write them: `Conv2d` with BatchNorm folded in (our trees are folded),
activations in place, padding within the convolution where it is the same on both sides. PyTorch is
wanted by benchmarks only: `pip install -e .[peer]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jaxad.backbones import efficientnet, resnet
from jaxad.backbones.layers import reached
from jaxad.core import Backbone, InputError, Preprocess, Variables
from jaxad.ops.convolve import Padding, same_padding, symmetric_padding

Tree = Mapping[str, Any]


def tensor(x: Any) -> Tensor:
    """Copy an array to a float32 tensor."""
    return torch.from_numpy(np.array(x, np.float32))


def same_pads(x: Tensor, *, kernel_size: int, stride: int) -> list[int]:
    """TensorFlow's "SAME" padding of `(B, C, H, W)` as `F.pad` takes it: last axis first."""
    pads: list[int] = []
    for size in (int(x.shape[3]), int(x.shape[2])):
        pads.extend(same_padding(size, kernel_size=kernel_size, stride=stride))
    return pads


class Conv(nn.Module):
    """A convolution filled from a linen scope `{"kernel": HWIO, "bias": O}`."""

    def __init__(
        self, tree: Tree, *, stride: int = 1, padding: Padding = ((0, 0), (0, 0)), groups: int = 1
    ) -> None:
        super().__init__()
        kernel = tensor(tree["kernel"]).permute(3, 2, 0, 1).contiguous()
        outputs, inputs, kh, kw = kernel.shape
        self.pads: list[int] | None = None
        inside: tuple[int, int] = (0, 0)
        self.same = padding == "SAME"
        if padding != "SAME":
            (top, bottom), (left, right) = padding
            if (top, left) == (bottom, right):
                inside = (top, left)
            else:
                self.pads = [left, right, top, bottom]
        self.conv = nn.Conv2d(
            inputs * groups,
            outputs,
            (kh, kw),
            stride,
            inside,
            groups=groups,
            bias="bias" in tree,
        )
        self.conv.weight.data = kernel
        if "bias" in tree:
            self.conv.bias.data = tensor(tree["bias"])

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, I, H, W)` to `(B, O, h, w)`."""
        pads = self.pads
        if self.same:
            kernel_size, stride = self.conv.kernel_size[0], self.conv.stride[0]
            pads = same_pads(x, kernel_size=kernel_size, stride=stride)
        if pads is not None and any(pads):
            x = F.pad(x, pads)
        return self.conv(x)


class ResNetBlock(nn.Module):
    """A basic or a bottleneck block, whichever the scope holds."""

    def __init__(self, tree: Tree, *, stride: int, stride_in_1x1: bool) -> None:
        super().__init__()
        around = symmetric_padding(1)
        if "conv3" in tree:
            first, second = (stride, 1) if stride_in_1x1 else (1, stride)
            layers = [
                Conv(tree["conv1"]["conv"], stride=first),
                Conv(tree["conv2"]["conv"], stride=second, padding=around),
                Conv(tree["conv3"]["conv"]),
            ]
        else:
            layers = [
                Conv(tree["conv1"]["conv"], stride=stride, padding=around),
                Conv(tree["conv2"]["conv"], padding=around),
            ]
        self.layers = nn.ModuleList(layers)
        shortcut = "downsample" in tree
        self.downsample = Conv(tree["downsample"]["conv"], stride=stride) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, channels, h, w)`."""
        y = x
        for i, layer in enumerate(self.layers):
            y = layer(F.relu(y, inplace=True) if i else y)
        if self.downsample is not None:
            x = self.downsample(x)
        y += x
        return F.relu(y, inplace=True)


class ResNet(nn.Module):
    """`jaxad.backbones.resnet.ResNet` with folded variables."""

    def __init__(self, module: Any, variables: Variables) -> None:
        super().__init__()
        params = variables["params"]
        self.levels = tuple(module.levels)
        self.stem = Conv(params["conv1"]["conv"], stride=2, padding=symmetric_padding(3))
        self.stages = nn.ModuleList()
        for stage in range(reached(self.levels, resnet.LEVELS)):
            blocks = [
                ResNetBlock(
                    params[f"{resnet.LEVELS[stage]}_{i}"],
                    stride=2 if stage > 0 and i == 0 else 1,
                    stride_in_1x1=module.stride_in_1x1,
                )
                for i in range(module.blocks[stage])
            ]
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map network input `(B, 3, H, W)` to `{level: (B, C, h, w)}`."""
        x = F.max_pool2d(F.relu(self.stem(x), inplace=True), 3, 2, 1)
        features = {}
        for level, stage in zip(resnet.LEVELS, self.stages):
            x = stage(x)
            if level in self.levels:
                features[level] = x
        return features


class MBConv(nn.Module):
    """Inverted bottleneck, with the gate if the scope holds one."""

    def __init__(
        self,
        tree: Tree,
        *,
        stride: int,
        padding: Padding,
        activation: Callable[..., Tensor],
    ) -> None:
        super().__init__()
        self.activation = activation
        self.expand = Conv(tree["expand_conv"]["conv"]) if "expand_conv" in tree else None
        depthwise = tree["depthwise_conv"]["conv"]
        inner = depthwise["kernel"].shape[-1]
        self.depthwise = Conv(depthwise, stride=stride, padding=padding, groups=inner)
        gate = tree.get("squeeze_excite")
        self.reduce = Conv(gate["reduce"]) if gate else None
        self.spread = Conv(gate["expand"]) if gate else None
        self.project = Conv(tree["project_conv"]["conv"])
        first = self.expand or self.depthwise
        self.skips = stride == 1 and first.conv.in_channels == self.project.conv.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, channels, h, w)`."""
        y = x
        if self.expand is not None:
            y = self.activation(self.expand(y), inplace=True)
        y = self.activation(self.depthwise(y), inplace=True)
        if self.reduce is not None and self.spread is not None:
            gate = self.activation(self.reduce(F.adaptive_avg_pool2d(y, 1)), inplace=True)
            y = y * torch.sigmoid(self.spread(gate))
        y = self.project(y)
        if self.skips:
            y += x
        return y


class EfficientNet(nn.Module):
    """`jaxad.backbones.efficientnet.EfficientNet` with folded variables."""

    def __init__(self, module: Any, variables: Variables) -> None:
        super().__init__()
        params = variables["params"]
        self.levels = tuple(module.levels)
        relu6 = module.activation is flax.linen.relu6
        self.activation: Callable[..., Tensor] = F.relu6 if relu6 else F.silu
        padding = efficientnet.paddings(module.padding)
        self.stem = Conv(params["conv_stem"]["conv"], stride=2, padding=padding(3, 2))
        self.stages = nn.ModuleList()
        number = 0
        for stage in module.stages[: reached(self.levels, efficientnet.LEVELS)]:
            blocks = []
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(
                    MBConv(
                        params[f"blocks_{number}"],
                        stride=stride,
                        padding=padding(stage.kernel_size, stride),
                        activation=self.activation,
                    )
                )
                number += 1
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map network input `(B, 3, H, W)` to `{level: (B, C, h, w)}`."""
        x = self.activation(self.stem(x), inplace=True)
        features = {}
        for level, stage in zip(efficientnet.LEVELS, self.stages):
            x = stage(x)
            if level in self.levels:
                features[level] = x
        return features


class Pixels(nn.Module):
    """Preprocessing: `x * gain + shift`, always computed in float32."""

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        std, mean = (tensor(v).reshape(1, 3, 1, 1) for v in (preprocess.std, preprocess.mean))
        self.flip = preprocess.channels == "BGR"
        self.register_buffer("gain", preprocess.scale / std)
        self.register_buffer("shift", -mean / std)

    def forward(self, images: Tensor) -> Tensor:
        """Map `(B, H, W, 3)` uint8 to `(B, 3, H, W)` float32."""
        x = images.permute(0, 3, 1, 2).float()
        return (x.flip(1) if self.flip else x) * self.gain.float() + self.shift.float()


class Network(nn.Module):
    """A frozen network with its preprocessing.

    Args:
        backbone: Ours, of ResNets or EfficientNets.
        variables: Its variables, BatchNorm folded.

    Raises:
        InputError: Another family, or BatchNorm that is not folded.
    """

    FAMILIES = ((resnet.ResNet, ResNet), (efficientnet.EfficientNet, EfficientNet))

    def __init__(self, backbone: Backbone, variables: Variables) -> None:
        super().__init__()
        # SimpleNet's patch features stand around a network.
        inner = getattr(backbone.module, "inner", None)
        module = backbone.module if inner is None else inner
        if inner is not None:
            variables = {name: tree["inner"] for name, tree in variables.items()}
        if variables.get("batch_stats"):
            raise InputError(f"backbone {backbone.name}: fold its BatchNorm first")
        for ours, theirs in self.FAMILIES:
            if isinstance(module, ours):
                self.network = theirs(module, variables)
                break
        else:
            raise InputError(
                f"backbone {backbone.name} has no PyTorch peer: ResNets and EfficientNets have"
            )
        self.pixels = Pixels(backbone.preprocess)

    def forward(self, images: Tensor, *, channels_last: bool) -> dict[str, Tensor]:
        """Map `(B, H, W, 3)` uint8 to `{level: (B, C, h, w)}`."""
        x = self.pixels(images).to(self.network.stem.conv.weight.dtype)
        kept = torch.channels_last if channels_last else torch.contiguous_format
        return self.network(x.contiguous(memory_format=kept))
