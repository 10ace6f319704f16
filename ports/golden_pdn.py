"""Make `tests/golden/pdn.npz`: maps of EfficientAD's patch description network by torch.

    python -m ports.golden_pdn tests/golden/pdn.npz     # needs the extra `parity`

A restatement of `get_pdn_small(padding=True)` of the best known code (github.com/nelson1425/
EfficientAd, common.py), under its own names. As in `ports/golden.py`, weights are seeded and the
arithmetic is float64.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ports.golden import IMAGENET, normalised, write
from ports.golden_case import GAINS, Case, Features, Shapes
from ports.seeded import fill

LAYERS = (("0", 128, 4, 3), ("3", 256, 4, 3), ("6", 256, 3, 1))
LAST = ("8", 384, 4, 0)
"""Name, channels, side of the kernel, padding."""


def case() -> Case:
    """Fill the network from the seed, by the names of nelson1425, and run it in float64."""
    import torch

    made: list[Any] = []
    shapes: Shapes = {}
    before = 3
    for name, channels, side, padding in (*LAYERS, LAST):
        made.append(torch.nn.Conv2d(before, channels, side, padding=padding))
        shapes[f"{name}.weight"] = (channels, before, side, side)
        shapes[f"{name}.bias"] = (channels,)
        if name != LAST[0]:
            made.append(torch.nn.ReLU())
        if name in ("0", "3"):
            made.append(torch.nn.AvgPool2d(2, stride=2, padding=1))
        before = channels
    model = torch.nn.Sequential(*made).double()
    filled = fill(shapes, gain=GAINS["pdn"])
    model.load_state_dict({name: torch.from_numpy(np.array(x)) for name, x in filled.items()})

    def features() -> Features:
        found = model(normalised("pdn", **IMAGENET))
        yield "patches", found.permute(0, 2, 3, 1).numpy()

    return "efficientad", "pdn_small", "pdn", shapes, features()


if __name__ == "__main__":
    write(sys.argv[1], [case()])
