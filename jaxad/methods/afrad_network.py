"""AFRAD's network: from a backbone's stages to reconstructed features (Lee et al., Eq. 1-13).

M-FPN (Eq. 1-2), three decoders side by side (stage-adaptive, Eq. 3-6; focused local, Eq. 7-10;
compensation), NGIB (Eq. 11-13). `jaxad.methods.afrad` trains it and scores by it, and says what the
paper leaves open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxad.core import Array
from jaxad.ops.convolve import convolve
from jaxad.ops.precision import NETWORK
from jaxad.ops.resample import resize


class Stage(NamedTuple):
    """One stage S_i of the backbone, and its share of the M-FPN and the stage-adaptive decoder."""

    feature: str
    """Feature name."""
    width: int
    """d_i: channels of its tokens."""
    kernel: int
    """Of the patch embedding PE_i ("patch embeddings of different kernel sizes")."""
    stride: int
    """Of PE_i: positions of S_i per token, along each axis."""
    refinements: int
    """Applications of Eq. 2 in the M-FPN; the feature refinement module Φ_i."""
    decodings: int
    """Layers of MLP of the stage-adaptive decoder (Eq. 3), "tailored" to the stage."""


def positions(x: Any) -> tuple[int, int]:
    """`(h, w)` of `(B, h, w, C)`."""
    _, h, w, _ = x.shape
    return h, w


def finest(stages: Sequence[Any]) -> tuple[int, int]:
    """`(h, w)` of the stage that has most positions."""
    return max((positions(x) for x in stages), key=math.prod)


def dense(features: int, name: str) -> nn.Dense:
    """A linear layer on the last axis."""
    return nn.Dense(features, name=name, precision=NETWORK)


def split_stages(x: Array, S: Sequence[Any]) -> list[Array]:
    """Cut `(..., ΣC_i)` into `(..., C_i)`, as many channels as every stage has."""
    return jnp.split(x, np.cumsum([stage.shape[-1] for stage in S])[:-1], axis=-1)


class MLP(nn.Module):
    """Two linear layers with GELU between, behind LayerNorm, beside a skip."""

    ratio: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `(..., d)` to `(..., d)`."""
        d = x.shape[-1]
        # In float32 at least, as are its parameters.
        wide = x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
        own = {"param_dtype": wide.dtype, "force_float32_reductions": False}
        norm = nn.LayerNorm(epsilon=1e-6, name="norm", **own)
        y = dense(self.ratio * d, "expand")(norm(wide).astype(x.dtype))
        return x + dense(d, "project")(nn.gelu(y, approximate=True))


class StageAdaptiveDecoder(nn.Module):
    """Eq. 3-6: each stage through its own number of MLPs, upsampled, concatenated, fused.

    Stages are upsampled to the finest of them, as the paper says of Eq. 7; what leaves has the grid
    of F_ori, which the paper does not tell.
    """

    width: int
    decodings: tuple[int, ...]
    ratio: int

    @nn.compact
    def __call__(self, stages: Sequence[Array], grid: tuple[int, int]) -> Array:
        """Map `(B, h_i, w_i, d_i)` of every stage to `(B, h, w, width)`, `grid = (h, w)`."""
        U, size = [], finest(stages)
        for i, (x, times) in enumerate(zip(stages, self.decodings)):
            for n in range(times):
                x = MLP(self.ratio, name=f"mlp{i}_{n}")(x)
            U.append(resize(x, size=size, align_corners=True))
        fused = dense(self.width, "fuse")(jnp.concatenate(U, axis=-1))
        return resize(fused, size=grid, align_corners=True)


class DepthwiseConv(nn.Module):
    """DW_p of Eq. 8: a `size` x `size` filter for each channel, with bias."""

    size: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `(B, h, w, d)` to `(B, h, w, d)`."""
        d = x.shape[-1]
        shape = (self.size, self.size, 1, d)
        kernel = self.param("kernel", nn.initializers.lecun_normal(in_axis=(0, 1)), shape, x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (d,), x.dtype)
        y = convolve(x, kernel, stride=1, padding="SAME", groups=d)
        return y + bias.reshape(1, 1, 1, d)


class FocusedLocalDecoder(nn.Module):
    """Eq. 7-10: 1x1, depthwise and 1x1 convolutions in one branch a kernel size, fused."""

    width: int
    kernels: tuple[int, ...]

    @nn.compact
    def __call__(self, stages: Sequence[Array], grid: tuple[int, int]) -> Array:
        """Map the stages, at the grid of the finest, to `(B, h, w, width)`, `grid = (h, w)`."""
        size = finest(stages)
        S = jnp.concatenate([resize(x, size=size, align_corners=True) for x in stages], axis=-1)
        branches = []
        for p in self.kernels:
            y = nn.gelu(dense(self.width, f"enter{p}")(S))
            y = nn.gelu(DepthwiseConv(p, name=f"depthwise{p}")(y))
            branches.append(dense(self.width, f"leave{p}")(y))
        y = dense(self.width, "fuse")(jnp.concatenate(branches, axis=-1))
        return resize(y, size=grid, align_corners=True)


class AFRADNetwork(nn.Module):
    """From stages to F_rec."""

    stages: tuple[Stage, ...]
    channels: int
    """Of F_ori."""
    width: int
    local: tuple[int, ...]
    compensation: tuple[int, ...]
    adaptive: tuple[int, ...]
    kernels: tuple[int, ...]
    compensation_refinements: int
    ratio: int
    ngib_layers: int
    refine: bool
    hidden: tuple[tuple[int, ...], ...]
    """Groups of stages, each rebuilt from the others; none: all from all."""

    @nn.compact
    def __call__(self, S: Sequence[Array], grid: tuple[int, int]) -> Array:
        """Map features `(B, H_i, W_i, C_i)` of every stage to F_rec `(B, h, w, channels)`."""
        tokens: dict[int, Array] = {}
        for i in sorted({*self.local, *self.compensation, *self.adaptive}):
            stage = self.stages[i - 1]
            with jax.named_scope("M-FPN"):
                H = nn.Conv(
                    stage.width,
                    (stage.kernel, stage.kernel),
                    (stage.stride, stage.stride),
                    padding="SAME",
                    precision=NETWORK,
                    name=f"patch_embedding{i}",
                )(S[i - 1])  # Eq. 1
                for n in range(stage.refinements if self.refine else 0):
                    H = MLP(self.ratio, name=f"refine{i}_{n}")(H)  # Eq. 2
            tokens[i] = H
        if self.hidden:  # one copy a group, in which its own stages can not be seen
            tokens = {
                i: jnp.concatenate(
                    [jnp.zeros_like(x) if i in group else x for group in self.hidden]
                )
                for i, x in tokens.items()
            }

        outputs = []
        if self.adaptive:
            outputs.append(
                StageAdaptiveDecoder(
                    self.width,
                    tuple(self.stages[i - 1].decodings for i in self.adaptive),
                    self.ratio,
                    name="stage_adaptive",
                )([tokens[i] for i in self.adaptive], grid)
            )
        if self.compensation:
            again = []
            for i in self.compensation:
                x = tokens[i]
                for n in range(self.compensation_refinements if self.refine else 0):
                    x = MLP(self.ratio, name=f"compensate{i}_{n}")(x)
                again.append(x)
            outputs.append(
                StageAdaptiveDecoder(
                    self.width, (1,) * len(again), self.ratio, name="compensation"
                )(again, grid)
            )
        if self.local:
            outputs.append(
                FocusedLocalDecoder(self.width, self.kernels, name="focused_local")(
                    [tokens[i] for i in self.local], grid
                )
            )
        if not self.ngib_layers:  # Table 5, last row but one: no fusion beyond a sum
            F = sum(outputs[1:], start=outputs[0])
        else:
            with jax.named_scope("NGIB"):
                F = jnp.concatenate(outputs, axis=-1)  # Eq. 11
                for n in range(self.ngib_layers):
                    F = MLP(self.ratio, name=f"ngib{n}")(F)  # Eq. 12
        if not self.hidden:
            return dense(self.channels, "output")(F)  # Eq. 13
        parts: dict[int, Array] = {}
        for n, (group, x) in enumerate(zip(self.hidden, jnp.split(F, len(self.hidden)))):
            own = [S[i - 1] for i in group]
            y = dense(sum(x.shape[-1] for x in own), f"output{n}")(x)
            parts |= zip(group, split_stages(y, own))
        return jnp.concatenate([parts[i] for i in sorted(parts)], axis=-1)
