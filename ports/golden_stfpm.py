"""Make `tests/golden/stfpm.npz`: two training steps of STFPM and its maps, by torch.

    python -m ports.golden_stfpm tests/golden/stfpm.npz     # needs the extra `parity` (torch)

A restatement of the authors' recipe in torch (github.com/gdwang08/STFPM, main.py): a ResNet that
learns from pixels, squared distances of normalised features, SGD with momentum and decay; the
product of 64 x 64 maps, here on the grid of the first level. The student has one block a stage. It
and the teacher's features are drawn from a seed (`ports/seeded.py`), all is computed in float64.
Stored: losses, a sample of every array after two steps, map and image scores after them.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ports.golden_pfm import pack
from ports.seeded import fill, sample

BATCH, SIZE = 4, (48, 64)
CHANNELS = {"layer1": 64, "layer2": 128, "layer3": 256}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photos() -> np.ndarray:
    """`(B, H, W, 3)` uint8."""
    return np.random.default_rng(3).integers(0, 256, (BATCH, *SIZE, 3), np.uint8)


def teachers() -> dict[str, np.ndarray]:
    """What a teacher would see, `(B, h, w, C)` float32; of one position nothing at all."""
    draw, found = np.random.default_rng(4), {}
    for n, (name, channels) in enumerate(CHANNELS.items()):
        height, width = (side // (4 * 2**n) for side in SIZE)
        x = np.maximum(draw.normal(size=(BATCH, height, width, channels)), 0)
        x[0, 0, 0] = 0
        found[name] = x.astype(np.float32)
    return found


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the student's arrays, as torchvision has them."""
    found: dict[str, tuple[int, ...]] = {}

    def conv_norm(conv: str, norm: str, shape: tuple[int, ...]) -> None:
        found[f"{conv}.weight"] = shape
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            found[f"{norm}.{leaf}"] = shape[:1]

    conv_norm("conv1", "bn1", (64, 3, 7, 7))
    before = 64
    for name, channels in CHANNELS.items():
        block = f"{name}.0"
        conv_norm(f"{block}.conv1", f"{block}.bn1", (channels, before, 3, 3))
        conv_norm(f"{block}.conv2", f"{block}.bn2", (channels, channels, 3, 3))
        if before != channels:
            shape = (channels, before, 1, 1)
            conv_norm(f"{block}.downsample.0", f"{block}.downsample.1", shape)
        before = channels
    return found


def student(state: dict[str, Any], x: Any, *, train: bool) -> list[Any]:
    """The levels of a ResNet with these arrays; in training the running ones of them move."""
    from torch.nn import functional as F

    def conv_norm(x: Any, conv: str, norm: str, stride: int = 1) -> Any:
        kernel = state[f"{conv}.weight"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        leaves = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{norm}.{leaf}"] for leaf in leaves), training=train)

    x = F.max_pool2d(conv_norm(x, "conv1", "bn1", 2).relu(), 3, 2, 1)
    found = []
    for name in CHANNELS:
        block, stride = f"{name}.0", 1 if name == "layer1" else 2
        y = conv_norm(x, f"{block}.conv1", f"{block}.bn1", stride).relu()
        y = conv_norm(y, f"{block}.conv2", f"{block}.bn2")
        if stride == 2:
            x = conv_norm(x, f"{block}.downsample.0", f"{block}.downsample.1", stride)
        x = (x + y).relu()
        found.append(x)
    return found


def two_steps() -> dict[str, np.ndarray]:
    """Losses, arrays after two steps, and what is then scored."""
    import torch
    from torch.nn import functional as F

    def channels_first(x: np.ndarray) -> Any:
        return torch.from_numpy(x.astype(np.float64).transpose(0, 3, 1, 2).copy())

    state = {
        name: torch.from_numpy(value.astype(np.float64)) for name, value in fill(shapes()).items()
    }
    learnt = [state[name].requires_grad_() for name in state if "running" not in name]
    x = channels_first((photos() / 255.0 - np.asarray(MEAN)) / np.asarray(STD))
    true = [F.normalize(channels_first(x), dim=1) for x in teachers().values()]

    def distances(*, train: bool) -> list[Any]:
        seen = [F.normalize(y, dim=1) for y in student(state, x, train=train)]
        return [torch.sum((t - s) ** 2, 1) for t, s in zip(true, seen)]

    out: dict[str, np.ndarray] = {}
    optimiser = torch.optim.SGD(learnt, 0.4, momentum=0.9, weight_decay=1e-4)
    for step in range(2):
        loss = sum(d.mean() for d in distances(train=True))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        out[f"loss{step}"] = np.asarray(loss.detach())
    with torch.no_grad():
        maps = distances(train=False)
        product = torch.ones(())
        for one in maps:
            product = product * F.interpolate(
                one[:, None], size=maps[0].shape[1:], mode="bilinear", align_corners=False
            )
        final = F.interpolate(product, size=SIZE, mode="bilinear", align_corners=False)[:, 0]
    out |= {f"after/{name}": sample(value.detach().numpy()) for name, value in state.items()}
    out["map"], out["image"] = sample(final.numpy()), final.amax(dim=(1, 2)).numpy()
    return out


def main(path: str) -> None:
    """Write the golden file."""
    np.savez_compressed(path, **pack(two_steps()))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1])
