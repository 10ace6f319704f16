"""Make `tests/golden/afrad.npz`: the parts of AFRAD that torch has as functions.

    python -m ports.golden_afrad tests/golden/afrad.npz     # needs the extra `parity` (torch)

Seeded inputs and what torch makes of them: `interpolate(align_corners=True)` up, down and not at
all; a branch of the focused local decoder (1x1, depthwise, 1x1 convolutions with GELU between); the
average pooling of 16 with stride 1.
"""

from __future__ import annotations

import sys

import numpy as np

SIZES = ((16, 16), (5, 9), (12, 7), (1, 1))
"""Of the resized feature maps; the input is 12 x 7."""
KERNELS = (5, 7)


def inputs() -> dict[str, np.ndarray]:
    """The arrays that torch and we start from."""
    rng = np.random.default_rng(20)
    arrays = {"features": rng.standard_normal((2, 12, 7, 3)), "maps": rng.random((2, 40, 33))}
    for p in KERNELS:
        arrays |= {
            f"enter{p}": rng.standard_normal((3, 4)),
            f"depthwise{p}": rng.standard_normal((p, p, 1, 4)) / p,
            f"leave{p}": rng.standard_normal((4, 4)),
        }
        arrays |= {f"{name}{p}_bias": rng.random(4) for name in ("enter", "depthwise", "leave")}
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def main(path: str) -> None:
    """Write the file."""
    import torch
    import torch.nn.functional as F

    given = {name: torch.from_numpy(array) for name, array in inputs().items()}
    x = given["features"].permute(0, 3, 1, 2)
    made = {}
    for size in SIZES:
        y = F.interpolate(x, size, mode="bilinear", align_corners=True)
        made[f"resize_{size[0]}_{size[1]}"] = y.permute(0, 2, 3, 1)
    for p in KERNELS:
        y = F.conv2d(x, given[f"enter{p}"].T[:, :, None, None], given[f"enter{p}_bias"])
        kernel = given[f"depthwise{p}"].permute(3, 2, 0, 1)
        y = F.gelu(y, approximate="tanh")
        y = F.conv2d(y, kernel, given[f"depthwise{p}_bias"], padding=p // 2, groups=4)
        y = F.gelu(y, approximate="tanh")
        y = F.conv2d(y, given[f"leave{p}"].T[:, :, None, None], given[f"leave{p}_bias"])
        made[f"branch{p}"] = y.permute(0, 2, 3, 1)
    made["pooled"] = F.avg_pool2d(given["maps"][:, None], 16, stride=1)[:, 0]
    np.savez_compressed(path, **{name: value.numpy() for name, value in made.items()})


if __name__ == "__main__":
    main(sys.argv[1])
