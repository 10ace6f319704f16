"""AFRAD as a PyTorch module with our weights: MLPs on NHWC tokens, the rest on NCHW maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.torch_methods import as_1x1, linear, resized, top_mean
from benchmarks.torch_nets import Conv, Network, Tree, tensor
from jaxad.core import Variables
from jaxad.detector import Detector


class MLP(nn.Module):
    """LayerNorm, two linear layers with GELU (tanh) between, beside a skip."""

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(len(tree["norm"]["scale"]), eps=1e-6)
        self.norm.weight.data, self.norm.bias.data = (
            tensor(tree["norm"][name]) for name in ("scale", "bias")
        )
        self.expand, self.project = linear(tree["expand"]), linear(tree["project"])

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, d, h, w)` to `(B, d, h, w)`."""
        y = x.permute(0, 2, 3, 1)
        y = y + self.project(F.gelu(self.expand(self.norm(y)), approximate="tanh"))
        return y.permute(0, 3, 1, 2)


def finest(stages: Sequence[Tensor]) -> tuple[int, int]:
    """`(h, w)` of the stage `(B, d, h, w)` that has most positions."""
    sizes = [(int(x.shape[2]), int(x.shape[3])) for x in stages]
    return max(sizes, key=lambda size: size[0] * size[1])


class StageAdaptive(nn.Module):
    """Eq. 3-6: each stage through its MLPs, upsampled to the finest, concatenated, fused."""

    def __init__(self, tree: Tree, decodings: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(*(MLP(tree[f"mlp{i}_{n}"]) for n in range(times)))
            for i, times in enumerate(decodings)
        )
        self.fuse = Conv(as_1x1(tree["fuse"]))

    def forward(self, tokens: list[Tensor], grid: tuple[int, int]) -> Tensor:
        """Map `(B, d_i, h_i, w_i)` of every stage to `(B, width, h, w)`."""
        size = finest(tokens)
        U = [resized(stage(x), size, align_corners=True) for stage, x in zip(self.stages, tokens)]
        return resized(self.fuse(torch.cat(U, dim=1)), grid, align_corners=True)


class FocusedLocal(nn.Module):
    """Eq. 7-10: 1×1, depthwise and 1×1 convolutions, one branch a kernel size, fused."""

    def __init__(self, tree: Tree, kernels: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                Conv(as_1x1(tree[f"enter{p}"])),
                nn.GELU(approximate="tanh"),
                Conv(
                    tree[f"depthwise{p}"],
                    padding="SAME",
                    groups=tree[f"depthwise{p}"]["kernel"].shape[-1],
                ),
                nn.GELU(approximate="tanh"),
                Conv(as_1x1(tree[f"leave{p}"])),
            )
            for p in kernels
        )
        self.fuse = Conv(as_1x1(tree["fuse"]))

    def forward(self, tokens: list[Tensor], grid: tuple[int, int]) -> Tensor:
        """Map the stages, at the grid of the finest, to `(B, width, h, w)`."""
        size = finest(tokens)
        S = torch.cat([resized(x, size, align_corners=True) for x in tokens], dim=1)
        y = self.fuse(torch.cat([branch(S) for branch in self.branches], dim=1))
        return resized(y, grid, align_corners=True)


class AFRAD(nn.Module):
    """AFRAD: backbone, M-FPN, three decoders, NGIB, distance, pooling."""

    sigma = 0.0

    def __init__(self, config: Any, detector: Detector, variables: Variables) -> None:
        super().__init__()
        m, params = config.method, variables["method"]["params"]
        network = detector.backbones["backbone"]
        self.channels_last = False
        self.network = Network(network, variables["backbones"]["backbone"])
        self.levels = tuple(network.levels)
        self.grid, self.normalise = m.grid - 1, m.normalise
        self.pooling, self.top_share = m.pooling, m.top_share
        refine, self.parts = m.refine, []
        self.embeddings, self.refinements = nn.ModuleDict(), nn.ModuleDict()
        for i in sorted({*m.local, *m.compensation, *m.adaptive}):
            times = m.refinements[i - 1] if refine else 0
            self.embeddings[str(i)] = Conv(
                params[f"patch_embedding{i}"], stride=m.patch_stride[i - 1], padding="SAME"
            )
            self.refinements[str(i)] = nn.Sequential(
                *(MLP(params[f"refine{i}_{n}"]) for n in range(times))
            )
        self.decoders, self.compensations = nn.ModuleDict(), nn.ModuleDict()
        if m.adaptive:
            decodings = [m.decodings[i - 1] for i in m.adaptive]
            self.decoders["adaptive"] = StageAdaptive(params["stage_adaptive"], decodings)
            self.parts.append(("adaptive", tuple(m.adaptive)))
        if m.compensation:
            ones = [1] * len(m.compensation)
            self.decoders["compensation"] = StageAdaptive(params["compensation"], ones)
            self.parts.append(("compensation", tuple(m.compensation)))
            times = m.compensation_refinements if refine else 0
            for i in m.compensation:
                self.compensations[str(i)] = nn.Sequential(
                    *(MLP(params[f"compensate{i}_{n}"]) for n in range(times))
                )
        if m.local:
            self.decoders["local"] = FocusedLocal(params["focused_local"], tuple(m.local_kernels))
            self.parts.append(("local", tuple(m.local)))
        self.ngib = nn.Sequential(*(MLP(params[f"ngib{n}"]) for n in range(m.ngib_layers)))
        self.hidden = tuple(tuple(i - 1 for i in group) for group in m.hidden)
        names = [f"output{n}" for n in range(len(self.hidden))] or ["output"]
        self.outputs = nn.ModuleList(Conv(as_1x1(params[name])) for name in names)
        self.map_length = m.map_length
        self.image_stages = tuple(i - 1 for i in m.image_stages)

    def reconstruct(self, S: list[Tensor], grid: tuple[int, int]) -> Tensor:
        """Map features `(B, C_i, H_i, W_i)` to F_rec `(B, ΣC_i, h, w)`."""
        tokens = {
            i: self.refinements[i](embed(S[int(i) - 1])) for i, embed in self.embeddings.items()
        }
        if self.hidden:
            tokens = {
                i: torch.cat(
                    [torch.zeros_like(x) if int(i) - 1 in group else x for group in self.hidden]
                )
                for i, x in tokens.items()
            }
        outputs = []
        for name, stages in self.parts:
            own = [tokens[str(i)] for i in stages]
            if name == "compensation":
                own = [self.compensations[str(i)](x) for i, x in zip(stages, own)]
            outputs.append(self.decoders[name](own, grid))
        fused = (
            self.ngib(torch.cat(outputs, dim=1))
            if len(self.ngib)
            else sum(outputs[1:], start=outputs[0])
        )
        if not self.hidden:
            return self.outputs[0](fused)
        parts: dict[int, Tensor] = {}
        for group, output, x in zip(self.hidden, self.outputs, fused.chunk(len(self.hidden))):
            sizes = [int(S[i].shape[1]) for i in group]
            parts |= zip(group, output(x).split(sizes, dim=1))
        return torch.cat([parts[i] for i in range(len(S))], dim=1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score `(B, H, W, 3)` uint8."""
        features = self.network(images, channels_last=self.channels_last)
        S = [features[level] for level in self.levels]
        lengths = [_rms(x) for x in S] if self.normalise or self.map_length else []
        if self.normalise:
            S = [x * length**-self.normalise for x, length in zip(S, lengths)]
        grid = (int(S[self.grid].shape[2]), int(S[self.grid].shape[3]))
        F_ori = torch.cat([resized(x, grid, align_corners=True) for x in S], dim=1)
        F_rec = self.reconstruct(S, grid)
        squares = (F_rec.float() - F_ori.float()) ** 2
        apart = self.map_length or self.image_stages  # else one sum serves all stages
        sizes = [int(x.shape[1]) for x in S] if apart else [int(squares.shape[1])]
        errors = [x.sum(dim=1, keepdim=True) for x in squares.split(sizes, dim=1)]
        size = (int(images.shape[1]), int(images.shape[2]))
        judged = [errors[i] for i in self.image_stages]
        if self.map_length:
            lengths = [resized(x.float(), grid, align_corners=True) for x in lengths]
            errors = [e * x ** (2 * self.map_length) for e, x in zip(errors, lengths)]
        map_ = _distance(errors, size)
        judge = _distance(judged, size) if judged else map_
        if not self.pooling:
            return map_[:, 0], judge.mean((1, 2, 3))
        window = tuple(min(self.pooling, n) for n in size)
        pooled = F.avg_pool2d(judge, window, stride=1)
        return map_[:, 0], top_mean(pooled[:, 0], self.top_share)


def _distance(errors: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Eq. 14 at the size of the image."""
    return resized(torch.stack(errors).sum(dim=0).sqrt(), size, align_corners=True)


def _rms(x: Tensor) -> Tensor:
    """Root mean square over channels, as `jaxad.methods.afrad.rms` with its minimum."""
    return x.float().square().mean(dim=1, keepdim=True).clamp_min(1e-12).sqrt().to(x.dtype)
