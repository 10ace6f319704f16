"""Make `tests/golden/dinomaly.npz`: one training step and a map of Dinomaly, by torch.

    python -m ports.golden_dinomaly tests/golden/dinomaly.npz     # needs the extra `parity` (torch)

The arithmetic of the authors' code (github.com/guojiajeremy/Dinomaly: models/uad.py, utils.py,
models/vision_transformer.py, optimizers/StableAdamW.py) in float64, without dropout. Features and
weights come from a seed; loss, gradients, some updated weights, the map and the image scores of the
weights as they were are stored. One thing is not theirs: the Gaussian sees the map mirrored beyond
its border, where they have zeros.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ports.golden_pfm import pack

BATCH, GRID, CHANNELS, OTHERS, IMAGE = 3, (4, 5), 12, 3, (30, 40)
"""`OTHERS`: tokens that belong to no patch."""
BLOCKS, GROUPS, HEADS = 4, 2, 2
STEP = 300
"""The loss is that of this step: a share .27 of the positions is taken for easy."""
RATE, DECAY, CLIP = 2e-3, 1e-4, 0.1
STORED_AFTER = ("block1/attention/qkv/kernel", "block4/norm2/norm/scale", "bottleneck/fc1/bias")
Arrays = dict[str, np.ndarray[Any, Any]]


def array_shapes() -> dict[str, tuple[int, ...]]:
    """Of every weight, by our name for it."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}/kernel"], shapes[f"{name}/bias"] = (inputs, outputs), (outputs,)

    linear("bottleneck/fc1", CHANNELS, 4 * CHANNELS)
    linear("bottleneck/fc2", 4 * CHANNELS, CHANNELS)
    for i in range(1, BLOCKS + 1):
        for norm in ("norm1", "norm2"):
            shapes[f"block{i}/{norm}/norm/scale"] = (CHANNELS,)
            shapes[f"block{i}/{norm}/norm/bias"] = (CHANNELS,)
        linear(f"block{i}/attention/qkv", CHANNELS, 3 * CHANNELS)
        linear(f"block{i}/attention/proj", CHANNELS, CHANNELS)
        linear(f"block{i}/fc1", CHANNELS, 4 * CHANNELS)
        linear(f"block{i}/fc2", 4 * CHANNELS, CHANNELS)
    return shapes


def inputs() -> tuple[Arrays, Arrays]:
    """What the encoder's blocks make, `(B, OTHERS + h w, C)` each, and weights, float32."""
    rng = np.random.default_rng(7)
    shape = (BATCH, OTHERS + GRID[0] * GRID[1], CHANNELS)
    blocks = {f"block{i}": rng.normal(size=shape).astype(np.float32) for i in range(BLOCKS)}
    arrays = {}
    for name, shape_of in array_shapes().items():
        if name.endswith("/scale"):
            value = rng.uniform(0.5, 1.5, shape_of)
        else:
            spread = shape_of[0] ** -0.5 if name.endswith("/kernel") else 0.3
            value = rng.normal(size=shape_of) * spread
        arrays[name] = value.astype(np.float32)
    return blocks, arrays


def rebuilt(arrays: dict[str, Any], blocks: list[Any]) -> list[tuple[Any, Any]]:
    """Each group of the encoder's, and what the decoder makes of it, `(B, C, h, w)`."""
    import torch
    from torch.nn import functional as F

    def linear(x: Any, name: str) -> Any:
        return F.linear(x, arrays[f"{name}/kernel"].T, arrays[f"{name}/bias"])

    def norm(x: Any, name: str) -> Any:
        own = (arrays[f"{name}/norm/scale"], arrays[f"{name}/norm/bias"])
        return F.layer_norm(x, (CHANNELS,), *own, eps=1e-8)

    def attend(x: Any, name: str) -> Any:
        parts = linear(x, f"{name}/qkv").reshape(*x.shape[:2], 3, HEADS, CHANNELS // HEADS)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        weights = (F.elu(q) + 1) @ (F.elu(k) + 1).transpose(-2, -1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        return linear((weights @ v).transpose(1, 2).reshape(x.shape), f"{name}/proj")

    def fed(x: Any, name: str) -> Any:
        return linear(F.gelu(linear(x, f"{name}fc1")), f"{name}fc2")

    x = fed(torch.stack(blocks).mean(dim=0), "bottleneck/")
    made = []
    for i in range(1, BLOCKS + 1):
        x = x + attend(norm(x, f"block{i}/norm1"), f"block{i}/attention")
        x = x + fed(norm(x, f"block{i}/norm2"), f"block{i}/")
        made.append(x)
    made.reverse()

    def grouped(each: list[Any]) -> list[Any]:
        size = BLOCKS // GROUPS
        means = [torch.stack(each[i : i + size]).mean(dim=0) for i in range(0, BLOCKS, size)]
        return [m[:, OTHERS:].transpose(1, 2).reshape(BATCH, CHANNELS, *GRID) for m in means]

    return list(zip(grouped(blocks), grouped(made)))


def smoothed(maps: Any) -> Any:
    """A 5 x 5 Gaussian of standard deviation 4 on `(B, 1, H, W)`, mirrored beyond the border."""
    import torch
    from torch.nn import functional as F

    for axis in (2, 3):
        first, last = (maps.narrow(axis, n, 2).flip(axis) for n in (0, maps.shape[axis] - 2))
        maps = torch.cat([first, maps, last], dim=axis)
    taps = torch.exp(-((torch.arange(5).double() - 2) ** 2) / (2 * 4**2))
    kernel = taps[:, None] * taps[None]
    return F.conv2d(maps, (kernel / kernel.sum())[None, None])


def stepped(value: Any, gradient: Any) -> Any:
    """A weight after the first step of StableAdamW with AMSGrad."""
    import torch

    value = value * (1 - RATE * DECAY)
    mean, square = 0.1 * gradient, 0.001 * gradient**2
    below = torch.sqrt(torch.maximum(torch.zeros_like(square), square)) / 0.001**0.5 + 1e-10
    ratio = gradient / below
    too_much = max(1.0, (ratio.norm(2) / ratio.numel() ** 0.5).item())
    return value - RATE / 0.1 / too_much * mean / below


def one_step() -> Arrays:
    """What a step makes of the weights, and the map and image scores before it."""
    import torch
    from torch.nn import functional as F

    features, given = inputs()
    arrays = {name: torch.from_numpy(value).double() for name, value in given.items()}
    blocks = [torch.from_numpy(x).double() for x in features.values()]
    out: Arrays = {}
    with torch.no_grad():
        apart = [1 - F.cosine_similarity(e, d)[:, None] for e, d in rebuilt(arrays, blocks)]
        maps = [F.interpolate(x, size=IMAGE, mode="bilinear", align_corners=True) for x in apart]
        M = smoothed(torch.cat(maps, dim=1).mean(dim=1, keepdim=True))
        flat = M.flatten(1).sort(dim=1, descending=True)[0]
        out["map"] = M[:, 0].numpy()
        out["image"] = flat[:, : int(flat.shape[1] * 0.01)].mean(dim=1).numpy()
    for value in arrays.values():
        value.requires_grad_()
    loss, share = torch.zeros(()).double(), min(0.9 * STEP / 1000, 0.9)
    for e, d in rebuilt(arrays, blocks):
        distance = (1 - F.cosine_similarity(e, d)).detach()[:, None]
        hard = torch.topk(distance.flatten(), int(distance.numel() * (1 - share)))[0]
        easy = distance < hard[-1]
        loss = loss + (1 - F.cosine_similarity(e.flatten(1), d.flatten(1))).mean() / GROUPS
        d.register_hook(lambda gradient, easy=easy: torch.where(easy, 0.1 * gradient, gradient))
    loss.backward()
    out["loss"] = loss.detach().numpy()
    out |= {f"grad/{name}": value.grad.numpy().copy() for name, value in arrays.items()}
    torch.nn.utils.clip_grad_norm_(arrays.values(), CLIP)
    after = {name: stepped(arrays[name].detach(), arrays[name].grad) for name in STORED_AFTER}
    return out | {f"after/{name}": value.numpy() for name, value in after.items()}


def main(path: str) -> None:
    """Write the golden file."""
    np.savez_compressed(path, **pack(one_step()))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1])
