"""Adapted-MoE's Tables 3, 4 and Figure 6, and choices it leaves open, on magnetic tiles.

    jaxad train --config configs/adapted_moe_ablation.py:moe-tta-norm --workdir runs/full ...
    python -m benchmarks.ablation adapted_moe --data FOLDER        every row

Every row changes `configs/adapted_moe.py:magnetic_tile`. Table 3's rows are named after what is on,
`none` is SimpleNet; published image / pixel AUROC on cloth in percent:

    none  64.41 / 59.69    moe       58.98 / 53.93    tta       53.05 / 65.96
    moe-norm  58.41 / 56.88    tta-norm  62.83 / 74.36    moe-tta   57.41 / 61.45
    moe-tta-norm  67.53 / 76.05    (norm alone is not published)
"""

import itertools
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxad.config import load_file

RAW, LENGTH_ONE = 0.05, 0.016
"""Noise: a third of the patch features' root mean square, as they are and of length 1."""


def _switches(moe: bool, tta: bool, norm: bool) -> dict[str, Any]:
    return {
        "moe": moe,
        "adaption": tta,
        "normalise_embedding": norm,
        "normalise_patches": norm,
        "noise": LENGTH_ONE if norm else RAW,
    }


TABLE3 = {
    "-".join(name for name, on in zip(("moe", "tta", "norm"), switch) if on) or "none": _switches(
        *switch
    )
    for switch in itertools.product((False, True), repeat=3)
}
"""Table 3's rows, and the one that it leaves out."""

OTHER: dict[str, dict[str, Any]] = {
    "softmax": {"centre_weight": 0.0},  # Table 4
    "top-2": {"top_k": 2},  # Figure 6
    "top-3": {"top_k": 3},
    "top-4": {"top_k": 4},
    "axes-all": {"axes": "all"},  # Eq. 5
    "axes-channels": {"axes": "channels"},
    "spread-all": {"spread": "all"},
    "axes-all-top-4": {"axes": "all", "top_k": 4},
    "no-tta-top-4": {"adaption": False, "top_k": 4},
    "raw-patches": {"normalise_patches": False, "noise": RAW},  # Eq. 6 for the router alone
    "centre-router": {"centre": "router", "router_width": 384},  # Eq. 5 as printed
}
"""Changes of the full method."""

_ROBUST = {"adapt_training": True, "statistics": "quartiles", "share": 0.5}
ROBUST: dict[str, dict[str, Any]] = {
    # One network for all: calibrated towards the mean of all training images' statistics.
    "robust": {**_switches(False, True, False), **_ROBUST},
    "robust-quarter": {**_switches(False, True, False), **_ROBUST, "share": 0.25},
    "robust-whole": {**_switches(False, True, False), **_ROBUST, "share": 1.0},
    "robust-moments": {**_switches(False, True, False), **_ROBUST, "statistics": "moments"},
    "moe-robust": {**_switches(True, True, False), **_ROBUST, "normalise_embedding": True},
}
ROBUST["moe-robust-shared"] = {**ROBUST["moe-robust"], "shared": True}
"""Not in the paper: calibrated in training too, by statistics that a defect does not move."""

ROWS = {**TABLE3, **OTHER, **ROBUST}


def get_config(row: str = "moe-tta-norm") -> ConfigDict:
    """Return one row's configuration."""
    if row not in ROWS:
        raise ValueError(f"rows are {', '.join(ROWS)}, not {row!r}")
    config = load_file(str(Path(__file__).with_name("adapted_moe.py:magnetic_tile")))
    config.method.update(ROWS[row])
    config.train.holdout = 0.1  # to tell how many are routed right
    return config
