"""Our methods as PyTorch modules with the same weights, scoring as their references do.

Each maps `(B, H, W, 3)` uint8 images to maps `(B, H, W)` and image scores `(B,)`, float32. What the
references compute with SciPy on the host (SimpleNet's smoothing) is left to `smooth`. Distances are
float32 whatever the networks' dtype, as ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.torch_nets import Conv, Network, Tree, tensor
from jaxad.backbones.architectures import architecture
from jaxad.core import InputError, Variables
from jaxad.detector import Detector
from jaxad.methods.simplenet import aggregation_kernel
from jaxad.ops.convolve import symmetric_padding
from jaxad.ops.fold import fold_batch_norm


def linear(tree: Tree) -> nn.Linear:
    """A dense layer from a linen scope `{"kernel": (I, O), "bias": O}`."""
    inputs, outputs = tree["kernel"].shape
    layer = nn.Linear(inputs, outputs, bias="bias" in tree)
    layer.weight.data = tensor(tree["kernel"]).T.contiguous()
    if "bias" in tree:
        layer.bias.data = tensor(tree["bias"])
    return layer


def as_1x1(tree: Tree) -> dict[str, Any]:
    """Turn the scope of a dense layer into that of a 1×1 convolution."""
    return {**tree, "kernel": np.asarray(tree["kernel"])[None, None]}


def resized(x: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Resize `(B, C, h, w)` bilinearly."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def top_mean(map_: Tensor, share: float) -> Tensor:
    """Mean of the highest `share` of the pixels of `(B, H, W)`; 0: the maximum."""
    flat = map_.flatten(1)
    count = max(1, round(share * int(flat.shape[1])))
    return flat.amax(1) if count == 1 else flat.topk(count, dim=1, sorted=False).values.mean(1)


def smooth(maps: np.ndarray[Any, Any], sigma: float) -> np.ndarray[Any, Any]:
    """Smooth `(B, H, W)` maps on the host, as SimpleNet's reference does."""
    if not sigma:
        return maps
    return np.stack([scipy.ndimage.gaussian_filter(map_, sigma=sigma) for map_ in maps])


class Mapping(nn.Module):
    """The mapping networks of one level of PFM.

    Args:
        params: Of one level.
        stats: Its running statistics.
        folded: Fold BatchNorm into the convolutions, for inference; else keep it, for training.
    """

    def __init__(self, params: Tree, stats: Tree, *, folded: bool) -> None:
        super().__init__()
        self.bidirectional = "reverse_layer1" in params
        self.blocks = nn.ModuleDict()
        if folded:
            stored = fold_batch_norm({"params": params, "batch_stats": stats}, 1e-5)["params"]
        else:
            stored = params
        for name, tree in stored.items():
            block: list[nn.Module] = [Conv(as_1x1(tree["conv"]))]
            if "bn" in tree:
                norm = nn.BatchNorm2d(len(tree["bn"]["scale"]), eps=1e-5, momentum=0.1)
                norm.weight.data, norm.bias.data = (
                    tensor(tree["bn"][k]) for k in ("scale", "bias")
                )
                norm.running_mean, norm.running_var = (
                    tensor(stats[name]["bn"][k]) for k in ("mean", "var")
                )
                block.append(norm)
            if "bn" in params[name]:
                block.append(nn.ReLU(inplace=True))
            self.blocks[name] = nn.Sequential(*block)

    def forward(self, F_S: Tensor, F_T: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Map `(B, c_S, h, w)` and `(B, c_T, h, w)` to pairs (mapped, true)."""
        both = (("forward", F_S, F_T), ("reverse", F_T, F_S))
        return [
            (self._through(direction, x), true)
            for direction, x, true in both[: 1 + self.bidirectional]
        ]

    def _through(self, direction: str, x: Tensor) -> Tensor:
        for name in ("layer1", "layer2", "shared", "layer4", "layer5", "layer6"):
            name = "layer3_shared" if name == "shared" else f"{direction}_{name}"
            x = self.blocks[name](x)
        return x


class PFM(nn.Module):
    """PFM, B-PFM and MB-PFM: 1×1 convolutions on NCHW maps, as the authors' code has them."""

    sigma = 0.0

    def __init__(
        self, config: Any, detector: Detector, variables: Variables, *, folded: bool = True
    ) -> None:
        super().__init__()
        m, networks = config.method, detector.backbones
        if m.smoothing:
            raise InputError("PFM's peer has no smoothing: set method.smoothing=0")
        self.normalise_output, self.top_share = m.normalise_output, m.top_share
        self.channels_last = False
        self.source, self.target = (
            Network(networks[role], variables["backbones"][role]) for role in ("source", "target")
        )
        self.pairs = list(zip(networks["source"].levels, networks["target"].levels))
        params, stats = (variables["method"][name] for name in ("params", "batch_stats"))
        self.mappings = nn.ModuleDict(
            {name: Mapping(params[name], stats[name], folded=folded) for name, _ in self.pairs}
        )

    def features(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """L2-normalised features of both networks, a pair for each level."""
        source, target = (
            network(images, channels_last=self.channels_last)
            for network in (self.source, self.target)
        )
        return [
            (F.normalize(source[s].float()), F.normalize(target[t].float())) for s, t in self.pairs
        ]

    def mapped(self, name: str, F_S: Tensor, F_T: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Pairs (mapped, true) of one level, float32."""
        mapping = self.mappings[name]
        dtype = next(mapping.parameters()).dtype
        pairs = mapping(F_S.to(dtype), F_T.to(dtype))
        trues = (F_T, F_S)
        found = [(y.float(), true) for (y, _), true in zip(pairs, trues)]
        return [(F.normalize(y), t) for y, t in found] if self.normalise_output else found

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score `(B, H, W, 3)` uint8."""
        size = (int(images.shape[1]), int(images.shape[2]))
        maps = []
        for (name, _), (F_S, F_T) in zip(self.pairs, self.features(images)):
            errors = [
                torch.sum((true - y) ** 2, dim=1, keepdim=True)
                for y, true in self.mapped(name, F_S, F_T)
            ]
            maps.append(resized(sum(errors[1:], start=errors[0]) / len(errors), size))
        final = torch.mean(torch.stack(maps), dim=0)[:, 0]
        return final, top_mean(final, self.top_share)


class SimpleNet(nn.Module):
    """SimpleNet. `rewritten`: not the reference's aggregation, but ours and its smoothing in torch.

    The reference unfolds every 3×3 neighbourhood, resizes those of deeper levels, and averages
    them by two adaptive poolings; the rewritten form is what a user could make of it (see
    `jaxad.methods.simplenet.aggregation_kernel`).
    """

    def __init__(
        self, config: Any, detector: Detector, variables: Variables, *, rewritten: bool = False
    ) -> None:
        super().__init__()
        m, network = config.method, detector.backbones["backbone"]
        self.levels = tuple(network.module.levels)
        self.width, self.rewritten, self.channels_last = m.embedding, rewritten, False
        self.sigma = 0.0 if rewritten else float(m.smoothing)
        self.network = Network(network, variables["backbones"]["backbone"])
        params, stats = (variables["method"][name] for name in ("params", "batch_stats"))
        enter = {"conv": params["enter"], "bn": params["norm"]}
        folded = fold_batch_norm({"params": enter, "batch_stats": {"bn": stats["norm"]}}, 1e-5)
        self.adaptor = linear(params["adaptor"])
        self.discriminator = nn.Sequential(
            linear(folded["params"]["conv"]), nn.LeakyReLU(0.2), linear(params["leave"])
        )
        if rewritten:
            self.pools = nn.ModuleList()
            for level in self.levels:
                channels = architecture(network.name).levels[level].channels
                kernel, groups = aggregation_kernel(
                    channels, width=self.width, levels=len(self.levels)
                )
                pool = Conv({"kernel": kernel}, padding=symmetric_padding(1), groups=groups)
                self.pools.append(pool)
            radius = int(4 * m.smoothing + 0.5)
            taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / (m.smoothing or 1.0)) ** 2)
            self.register_buffer("taps", tensor(taps / taps.sum()))

    def patches(self, features: dict[str, Tensor]) -> Tensor:
        """Patch features `(B·h·w, width)` by the reference's own steps."""
        grid = (int(features[self.levels[0]].shape[2]), int(features[self.levels[0]].shape[3]))
        parts = []
        for level in self.levels:
            x = features[level]
            B, C, h, w = x.shape
            x = F.unfold(x, 3, padding=1).reshape(B * C * 9, 1, h, w)
            x = resized(x, grid).reshape(B, C * 9, -1).permute(0, 2, 1)
            x = x.reshape(-1, 1, C * 9)
            parts.append(F.adaptive_avg_pool1d(x, self.width)[:, 0])
        stacked = torch.stack(parts, dim=1).reshape(len(parts[0]), 1, -1)
        return F.adaptive_avg_pool1d(stacked, self.width)[:, 0]

    def grouped_patches(self, features: dict[str, Tensor]) -> Tensor:
        """The same as grouped convolutions that average, resized afterwards."""
        grid = (int(features[self.levels[0]].shape[2]), int(features[self.levels[0]].shape[3]))
        parts = [
            resized(pool(features[level]), grid) for pool, level in zip(self.pools, self.levels)
        ]
        return torch.cat(parts, dim=1).permute(0, 2, 3, 1).flatten(0, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score `(B, H, W, 3)` uint8; the map is not smoothed yet unless rewritten."""
        features = self.network(images, channels_last=self.channels_last)
        _, _, h, w = features[self.levels[0]].shape
        x = self.grouped_patches(features) if self.rewritten else self.patches(features)
        score = -self.discriminator(self.adaptor(x)).float().reshape(len(images), 1, h, w)
        size = (int(images.shape[1]), int(images.shape[2]))
        map_ = resized(score, size)
        if self.rewritten:
            radius = len(self.taps) // 2
            # SciPy's "reflect" repeats the edge pixel, which no padding of torch's does.
            for axis in (2, 3):
                ends = (
                    map_.narrow(axis, 0, radius).flip(axis),
                    map_,
                    map_.narrow(axis, map_.shape[axis] - radius, radius).flip(axis),
                )
                shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
                map_ = F.conv2d(torch.cat(ends, dim=axis), self.taps.float().reshape(shape))
        return map_[:, 0], score.amax((1, 2, 3))
