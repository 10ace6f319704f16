"""AFRAD's Tables 5 to 7, and choices it leaves open: `configs/afrad_ablation.py:ROW[-SIZE]`.

    jaxad train --config configs/afrad_ablation.py:table5-row1 --workdir runs/5_1 ...
    python -m benchmarks.ablation afrad --data FOLDER       every row, at the size `small`

ROW is one of `ROWS`. Without SIZE it changes the published configuration (configs/afrad.py); with
`-fast` or `-small` that of configs/afrad_fast.py.

Published means over MVTec AD, image AUROC / pixel AUROC (/ AUPRO@0.3) in percent:

    table5-row1  without the focused local decoder     91.7 / 95.1 / 87.6
    table5-row2  without the compensation decoder      91.6 / 94.6 / 87.4
    table5-row3  without the stage-adaptive decoder    91.2 / 94.7 / 87.6
    table5-row4  without NGIB                          90.9 / 94.8 / 87.8
    table5-row5  everything                            98.3 / 96.9 / 91.3
    table6-row1  local 1,2  compensation 1,2  adaptive 3,4        96.4 / 96.5
    table6-row2  local 1,2  compensation 2,3  adaptive 3,4        96.4 / 96.5
    table6-row3  local 1,2  compensation 2,3  adaptive 1,2,3,4    95.9 / 96.6
    table6-row4  local 1,2,3,4  compensation 1,2  adaptive all    95.6 / 96.5
    table6-row5  local 1,2  compensation 1,2  adaptive 1,2,3,4    98.3 / 96.9
    table7-row1  without the feature refinement module  89.0 / 93.9
    table7-row2  with it                                98.3 / 96.9
"""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxad.config import load_file

PAPER: dict[str, dict[str, Any]] = {
    "table5-row1": {"local": ()},
    "table5-row2": {"compensation": ()},
    "table5-row3": {"adaptive": ()},
    "table5-row4": {"ngib_layers": 0},
    "table5-row5": {},
    "table6-row1": {"adaptive": (3, 4)},
    "table6-row2": {"compensation": (2, 3), "adaptive": (3, 4)},
    "table6-row3": {"compensation": (2, 3)},
    "table6-row4": {"local": (1, 2, 3, 4)},
    "table6-row5": {},
    "table7-row1": {"refine": False},
    "table7-row2": {},
}
"""Rows of the paper's tables, as changes of `method`."""

OPEN: dict[str, dict[str, Any]] = {
    "grid-32": {"grid": 2, "patch_kernel": (2, 1, 1, 1), "patch_stride": (2, 1, 1, 1)},
    "grid-64": {"grid": 1, "patch_kernel": (1, 1, 1, 1), "patch_stride": (1, 1, 1, 1)},
    "pooling-16": {"pooling": 16},
    "loss-sum": {"sum_of_scales": True},
    "jitter-0": {"jitter": 0.0},
    "jitter-0.4": {"jitter": 0.4},
    "jitter-2.4": {"jitter": 2.4},
    "refinements-2": {"refinements": (2, 2, 2, 2), "compensation_refinements": 2},
    "decodings-2": {"decodings": (1, 1, 2, 2)},
    "ngib-2": {"ngib_layers": 2},
    "normalise-0": {"normalise": 0.0},
    "normalise-1": {"normalise": 1.0},
    "top-share": {"top_share": 0.03},
    "hidden": {"hidden": ((1, 3), (2, 4))},
    "hidden-deepest": {"hidden": ((1, 2, 3), (4,))},
    "map-length": {"map_length": 0.5, "image_stages": (1, 2, 3, 4)},
    "image-deep": {"image_stages": (3, 4)},
}
"""Choices that the paper leaves open. `grid-*` is in tokens a side at 256 pixels, for the stages of
configs/afrad_fast.py only; a step there takes as many tokens as with 16, from fewer images."""

ROWS = {**PAPER, **OPEN}

UNIAD = {"jitter": 1.2, "sum_of_scales": False}
"""What every row starts from; configs/afrad_fast.py has taken the better choices since."""


def get_config(row: str = "table5-row5") -> ConfigDict:
    """Return one row's configuration."""
    name, _, size = row.rpartition("-")
    if size not in ("fast", "small"):
        name, size = row, ""
    if name not in ROWS:
        raise ValueError(f"rows are {', '.join(ROWS)}, each also with -fast or -small, not {row!r}")
    if name.startswith("grid") and not size:
        raise ValueError(f"{row} is a change of configs/afrad_fast.py: use {row}-fast")
    file = f"afrad_fast.py:{size}" if size else "afrad.py:mvtec"
    config = load_file(str(Path(__file__).with_name(file)))
    config.data.calibration = 0.0  # as published: all normal photos are trained on
    config.method.update({**UNIAD, **ROWS[name]})
    if name.startswith("grid"):
        config.train.batch_size //= (int(name.removeprefix("grid-")) // 16) ** 2
    return config
