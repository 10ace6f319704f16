"""Layout `elpv`: 2,624 electroluminescence photos of solar cells, from the package elpv-dataset.

C. Buerhop-Lutz et al., "A Benchmark for Visual Identification of Defective Solar Cells in
Electroluminescence Imagery", EU PVSEC 2018. `labels.csv` gives each cell the probability (0, 1/3,
2/3, 1) that it is defective and the kind of its module, monocrystalline or polycrystalline.
There are no masks.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from jaxad.data.hold_out import held_out_fifth
from jaxad.data.manifest import GOOD, Manifest, Record
from jaxad.errors import InputError

_LABELS = {0: GOOD, 1: "defect_0.33", 2: "defect_0.67", 3: "defect_1.00"}
"""Thirds of the probability to label."""


def scan(root: str | os.PathLike[str] = "") -> Manifest:
    """Read `labels.csv`; the categories are "mono" and "poly".

    Train: the cells of probability 0, less a fifth of each category (`held_out_fifth` of their
    paths). Test: that fifth, and every cell of probability 1/3 and above.

    Args:
      root: Folder that holds `labels.csv`, or `data/labels.csv`; "": the installed package.

    Raises:
      InputError: the package is not installed, no `labels.csv` there, one that is not UTF-8, or a
        line of another form.
    """
    folder = Path(root) if os.fspath(root) else _installed()
    folder = next((d for d in (folder, folder / "data") if (d / "labels.csv").is_file()), folder)
    table = folder / "labels.csv"
    if not table.is_file():
        raise InputError(f"{folder}: holds no labels.csv: set data.root to elpv-dataset's data")
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{table}: not UTF-8 text: install elpv-dataset anew") from None
    cells = [_cell(table, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    held_out = {
        name
        for kind in {kind for _, _, kind in cells}
        for name in held_out_fifth(n for n, thirds, k in cells if k == kind and thirds == 0)
    }
    return Manifest(
        folder,
        tuple(
            Record(
                path=name,
                category=kind,
                subclass="",
                split="train" if thirds == 0 and name not in held_out else "test",
                label=_LABELS[thirds],
            )
            for name, thirds, kind in cells
        ),
    )


def _cell(table: Path, number: int, line: str) -> tuple[str, int, str]:
    """Parse `images/cell0001.png  0.3333333333333333  mono` to (path, thirds, kind)."""
    try:
        name, probability, kind = line.split()
        thirds = float(probability) * 3
        if abs(thirds - round(thirds)) > 0.01:
            raise ValueError(probability)
        _ = _LABELS[round(thirds)]
    except (ValueError, KeyError):
        raise InputError(
            f"{table}: line {number} is not `path probability kind` with a probability of 0, 1/3, "
            "2/3 or 1: install elpv-dataset anew"
        ) from None
    return name, round(thirds), kind


def _installed() -> Path:
    spec = importlib.util.find_spec("elpv_dataset")  # finds it without importing it
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "the package elpv-dataset is not installed: pip install elpv-dataset, or set data.root "
            "to a folder with its labels.csv"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "data"
