"""Adapted-MoE's Tables 3, 4 and Figure 6, and choices it leaves open, on magnetic tiles.

    jaxad train --config configs/adapted_moe_ablation.py:moe-tta-norm --workdir runs/full ...
    python -m benchmarks.ablation adapted_moe --data FOLDER        every row

Every row changes `configs/adapted_moe.py:magnetic_tile`. Table 3's rows are named after what is on,
`none` is SimpleNet; published image / pixel AUROC on cloth in percent:

    none  64.41 / 59.69    moe       58.98 / 53.93    tta       53.05 / 65.96
    moe-norm  58.41 / 56.88    tta-norm  62.83 / 74.36    moe-tta   57.41 / 61.45
    moe-tta-norm  67.53 / 76.05    (norm alone is not published)

Rows of `EXPERTS` put other methods behind the router, and stand beside these by themselves.
"""

import itertools
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

_PFM, _BANK = "adapted_moe_of:mb_pfm_fast", "adapted_moe_of:patchcore:resnet18"
_SMALL = {"expert.share": 0.01}  # of the patches: 10 % take seconds a photo
_RAW, _WARM = {"normalise_scores": False}, {"warm_start": 0.5}
_AT_TEST = {"adaption": True, "adapt_training": False}
_LATENT, _STEPS = (16, 100, 100), (100, 200, 400)
"""Of MB-PFM: a quarter of the fast recipe's products, so that rows take minutes."""
EXPERTS: dict[str, tuple[str, dict[str, Any]]] = {
    "simplenet": ("adapted_moe:magnetic_tile", TABLE3["none"]),
    "mb-pfm": ("mb_pfm_fast", {}),
    "moe-mb-pfm": (_PFM, {}),
    "moe-mb-pfm-raw": (_PFM, _RAW),
    "moe-mb-pfm-warm": (_PFM, _WARM),
    "moe-mb-pfm-warm-raw": (_PFM, {**_WARM, **_RAW}),
    "moe-mb-pfm-warm-top-3": (_PFM, {**_WARM, **_RAW, "top_k": 3, "temperature": 10.0}),
    "moe-mb-pfm-warm-tta": (_PFM, {**_WARM, **_RAW, "adaption": True}),
    "moe-mb-pfm-warm-half": (_PFM, {**_WARM, **_RAW, **_ROBUST, **_AT_TEST}),
    "moe-mb-pfm-shared-robust": (_PFM, {**_ROBUST, "adaption": True, "shared": True}),
    "nearest": ("nearest", {}),
    "afrad": ("afrad_fast", {}),
    "padim": ("padim", {}),
    "moe-padim": ("adapted_moe_of:padim", {}),
    "patchcore": ("patchcore:resnet18", {"share": 0.01}),
    "moe-bank": (_BANK, _SMALL),
    "moe-bank-raw": (_BANK, {**_SMALL, **_RAW}),
    "moe-bank-tta": (_BANK, {**_SMALL, "adaption": True}),
    "moe-bank-half": (_BANK, {**_SMALL, **_ROBUST, **_AT_TEST}),
    "moe-bank-shared": (_BANK, {**_SMALL, "shared": True}),
    "moe-bank-shared-half": (_BANK, {**_SMALL, **_ROBUST, **_AT_TEST, "shared": True}),
    "moe-bank-shared-robust": (_BANK, {**_SMALL, **_ROBUST, "adaption": True, "shared": True}),
}
"""Detectors by themselves, and as experts: a configuration, and what is changed of its method."""

ROWS = {**TABLE3, **OTHER, **ROBUST, **{row: changes for row, (_, changes) in EXPERTS.items()}}


def get_config(row: str = "moe-tta-norm") -> ConfigDict:
    """Return one row's configuration."""
    if row not in ROWS:
        raise ValueError(f"rows are {', '.join(ROWS)}, not {row!r}")
    tiles = load_file("adapted_moe:magnetic_tile")
    if row not in EXPERTS:
        tiles.method.update(ROWS[row])
        tiles.train.holdout = 0.1  # to tell how many are routed right
        return tiles
    base, changes = EXPERTS[row]
    config = load_file(base)
    config.method.update_from_flattened_dict(changes)
    for name in ("layout", "train_subclasses", "test_subclasses", "calibration"):
        config.data[name] = tiles.data[name]
    config.train.cache_dtype, config.score.batch_size = "float16", 16
    if "mb_pfm" in base:
        config.method.get("expert", config.method).latent = _LATENT
        config.train.steps = (*config.train.steps[:-3], *_STEPS)
    if base == "afrad_fast":
        config.train.steps = (500,)  # a quarter, as well
    return config
