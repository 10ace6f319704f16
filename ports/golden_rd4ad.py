"""Make `tests/golden/rd4ad.npz`: one training step and a map of RD4AD, by torch.

    python -m ports.golden_rd4ad tests/golden/rd4ad.npz     # needs the extra `parity` (torch)

The arithmetic of the authors' code (github.com/hq-deng/RD4AD: main.py, resnet.py, de_resnet.py,
test.py) with torch's functions, in float64, for basic and for bottleneck blocks. Features and
weights come from a seed; loss, gradients, running statistics, some updated weights and the map of
the weights as they were are stored.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ports.golden_pfm import pack

CHANNELS, GRIDS, BATCH, IMAGE = (2, 4, 6), ((16, 8), (8, 4), (4, 2)), 3, (32, 16)
BLOCKS = (1, 2, 1, 1)
VARIANTS = {"basic": 0.0, "bottleneck": 0.5}
"""Share of a block's channels that its middle convolution has."""
STORED_AFTER = ("embedding_0/conv1/conv/kernel", "decoder1_0/conv2/bn/scale", "fuse1/bn/bias")
Arrays = dict[str, np.ndarray[Any, Any]]


def block_shapes(name: str, inputs: int, outputs: int, change: str, share: float) -> dict[str, Any]:
    """Kernel shapes (HWIO) of one block; the scaling convolution of an upward one is 2 x 2."""
    scaling = {"up": 2, "down": 3, "same": 3}[change]
    inner = round(share * outputs)
    if inner:
        shapes = {
            "conv1": (1, 1, inputs, inner),
            "conv2": (scaling, scaling, inner, inner),
            "conv3": (1, 1, inner, outputs),
        }
    else:
        shapes = {
            "conv1": (scaling, scaling, inputs, outputs),
            "conv2": (3, 3, outputs, outputs),
        }
    if change != "same":
        size = 2 if change == "up" else 1
        shapes["shortcut"] = (size, size, inputs, outputs)
    return {f"{name}/{key}": shape for key, shape in shapes.items()}


def kernel_shapes(share: float) -> dict[str, Any]:
    """Of every convolution, by our name for it."""
    a, b, c = CHANNELS
    shapes = {"fuse1": (3, 3, a, b), "fuse1_again": (3, 3, b, c), "fuse2": (3, 3, b, c)}
    stages = [("embedding", 3 * c, 2 * c, "down", BLOCKS[3])]
    for level, inputs, outputs, count in ((3, 2 * c, c, 0), (2, c, b, 1), (1, b, a, 2)):
        stages.append((f"decoder{level}", inputs, outputs, "up", BLOCKS[count]))
    for name, inputs, outputs, change, count in stages:
        for i in range(count):
            own = (inputs, outputs, change) if i == 0 else (outputs, outputs, "same")
            shapes |= block_shapes(f"{name}_{i}", *own, share)
    return shapes


def inputs(variant: str) -> tuple[list[np.ndarray[Any, Any]], Arrays]:
    """Features `(B, h, w, C)`, and weights and running statistics, float32."""
    rng = np.random.default_rng(11)
    features = [
        np.maximum(rng.normal(size=(BATCH, *grid, c)), 0).astype(np.float32)
        for grid, c in zip(GRIDS, CHANNELS)
    ]
    arrays = {}
    for name, shape in kernel_shapes(VARIANTS[variant]).items():
        width = shape[-1]
        arrays[f"{name}/conv/kernel"] = rng.normal(size=shape) * np.prod(shape[:3]) ** -0.5
        arrays[f"{name}/bn/scale"] = rng.uniform(0.5, 1.5, width)
        arrays[f"{name}/bn/bias"] = rng.normal(size=width) / 4
        arrays[f"{name}/bn/mean"] = rng.normal(size=width) / 4
        arrays[f"{name}/bn/var"] = rng.uniform(0.5, 1.5, width)
    return features, {name: value.astype(np.float32) for name, value in arrays.items()}


def student(arrays: dict[str, Any], levels: list[Any], *, train: bool) -> list[Any]:
    """The bottleneck and the decoder, NCHW; running statistics in `arrays` move in training."""
    import torch
    from torch.nn import functional as F

    def layer(x: Any, name: str, change: str = "same") -> Any:
        kernel = arrays[f"{name}/conv/kernel"]
        if change == "up":
            x = F.conv_transpose2d(x, kernel.permute(2, 3, 0, 1), stride=2)
        else:
            stride = 2 if change == "down" else 1
            padding = len(kernel) // 2
            x = F.conv2d(x, kernel.permute(3, 2, 0, 1), stride=stride, padding=padding)
        mean, var, scale, bias = (
            arrays[f"{name}/bn/{k}"] for k in ("mean", "var", "scale", "bias")
        )
        return F.batch_norm(x, mean, var, scale, bias, training=train, momentum=0.1, eps=1e-5)

    def block(x: Any, name: str, change: str) -> Any:
        if f"{name}/conv3/conv/kernel" in arrays:
            y = torch.relu(layer(x, f"{name}/conv1"))
            y = torch.relu(layer(y, f"{name}/conv2", change))
            y = layer(y, f"{name}/conv3")
        else:
            y = torch.relu(layer(x, f"{name}/conv1", change))
            y = layer(y, f"{name}/conv2")
        return torch.relu(y + (x if change == "same" else layer(x, f"{name}/shortcut", change)))

    def stage(x: Any, name: str, count: int, change: str) -> Any:
        for i in range(count):
            x = block(x, f"{name}_{i}", "same" if i else change)
        return x

    first = torch.relu(layer(levels[0], "fuse1", "down"))
    first = torch.relu(layer(first, "fuse1_again", "down"))
    second = torch.relu(layer(levels[1], "fuse2", "down"))
    x = stage(torch.cat([first, second, levels[2]], 1), "embedding", BLOCKS[3], "down")
    made: list[Any] = []
    for level, count in ((3, 0), (2, 1), (1, 2)):
        x = stage(x, f"decoder{level}", BLOCKS[count], "up")
        made.insert(0, x)
    return made


def one_step(variant: str) -> Arrays:
    """What a step makes of the weights, and the map and image scores before it."""
    import scipy.ndimage
    import torch
    from torch.nn import functional as F

    features, given = inputs(variant)
    levels = [torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).double() for x in features]
    arrays = {name: torch.from_numpy(value).double() for name, value in given.items()}
    trained = {n: v for n, v in arrays.items() if not n.endswith(("/mean", "/var"))}
    out: Arrays = {}
    with torch.no_grad():
        total = np.zeros((BATCH, *IMAGE))
        for own, made in zip(levels, student(arrays, levels, train=False)):
            M = 1 - F.cosine_similarity(own, made)
            M = F.interpolate(M[:, None], size=IMAGE, mode="bilinear", align_corners=True)
            total = total + M[:, 0].numpy()
    out["map"] = np.stack([scipy.ndimage.gaussian_filter(x, sigma=4) for x in total])
    for value in trained.values():
        value.requires_grad_()
    optimiser = torch.optim.Adam(trained.values(), lr=0.005, betas=(0.5, 0.999))
    losses = []
    for own, made in zip(levels, student(arrays, levels, train=True)):
        losses.append(torch.mean(1 - F.cosine_similarity(own.flatten(1), made.flatten(1))))
    loss = sum(losses)
    loss.backward()
    out["losses"] = np.asarray([x.item() for x in losses])
    # Of layers before BatchNorm nothing else is stored: the gradients have it all.
    out |= {f"grad/{name}": value.grad.numpy().copy() for name, value in trained.items()}
    optimiser.step()
    out |= {f"after/{name}": arrays[name].detach().numpy() for name in STORED_AFTER}
    return out | {f"after/{n}": v.numpy() for n, v in arrays.items() if n not in trained}


def main(path: str) -> None:
    """Write the golden file."""
    arrays = {
        f"{variant}/{key}": value
        for variant in VARIANTS
        for key, value in pack(one_step(variant)).items()
    }
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1])
