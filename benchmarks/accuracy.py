"""Accuracy on real photos: train every setting of README's table and print its row.

    python -m benchmarks.accuracy --data FOLDER [--only NAME] [--json FILE]

FOLDER holds `mvtec_ad_256/` (layout mvtec_ad), `magnetic_tile/` (with manifest.csv) and
`cifar10_subset/` (as published in Python's pickles); ELPV comes as a package. A row is one `jaxad
train` with the printed command; wall time is the whole command's.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from pathlib import Path
from typing import Any

from jaxad.config import parse_config
from jaxad.data.layouts.cifar10 import SETTINGS as CIFAR
from jaxad.runs.train import train

JOIN = (("elpv", ""), ("manifest", "magnetic_tile"), ("mvtec_ad", "mvtec_ad_256", "bottle"))
"""Four categories of three data sets, for one model."""

BOTTLE = {"data.root": "{data}/mvtec_ad_256", "data.categories": "bottle"}
TILES = {"data.root": "{data}/magnetic_tile", "data.layout": "manifest"}

SETTINGS: dict[str, tuple[str, dict[str, str]]] = {
    "bottle": ("configs/mb_pfm_fast.py", BOTTLE),
    "magnetic_tile": ("configs/mb_pfm_fast.py", TILES),
    "bottle_lite": ("configs/mb_pfm_lite.py", BOTTLE),
    "magnetic_tile_lite": ("configs/mb_pfm_lite.py", TILES),
    "elpv": ("configs/demo.py", {}),
    "simplenet": ("configs/simplenet_fast.py", BOTTLE),
    "afrad": (
        "configs/afrad_fast.py",
        {"data.root": "{data}", "data.layout": "join", "data.join": repr(JOIN)},
    ),
    **{
        f"cifar10-{normal}": (
            f"configs/afrad_fast.py:cifar10-{normal}",
            {"data.root": "{data}/cifar10_subset"},
        )
        for normal in CIFAR
    },
}
"""Name -> configuration and its changes."""

METRICS = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "aupro_0.30")


def run(name: str, data: str, runs: Path) -> dict[str, Any]:
    """Train one setting; returns its results with the command and the wall time."""
    path, changes = SETTINGS[name]
    flags = [f"--config.{key}={value.format(data=data)}" for key, value in changes.items()]
    start = time.monotonic()
    results = train(parse_config(["--config", path, *flags]), runs / name, overwrite=True)
    return {
        "command": " ".join(["jaxad train --config", path, "--workdir", str(runs / name), *flags]),
        "date": datetime.date.today().isoformat(),
        "wall_seconds": round(time.monotonic() - start, 1),
        **results,
    }


def rows(results: dict[str, Any]) -> list[str]:
    """Markdown rows of one setting, one a category."""
    lines = []
    for name, metrics in results["categories"].items():
        values = ["–" if metrics[m] is None else f"{metrics[m]:.4f}" for m in METRICS]
        cells = [name, *values, f"{metrics['n_train']} / {metrics['n_test']}"]
        lines.append("| " + " | ".join([*cells, f"{results['wall_seconds'] / 60:.1f} min"]) + " |")
    return lines


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of the data sets")
    parser.add_argument("--only", choices=SETTINGS, help="one setting instead of all")
    parser.add_argument("--runs", type=Path, default=Path("runs/accuracy"), help="work directories")
    parser.add_argument("--json", type=Path, help="write all results here")
    args = parser.parse_args()
    every = {}
    for name in [args.only] if args.only else SETTINGS:
        every[name] = run(name, args.data, args.runs)
        print(every[name]["command"], file=sys.stderr)
        print("\n".join(rows(every[name])), flush=True)
    if args.json:
        args.json.write_text(json.dumps(every, indent=2) + "\n")


if __name__ == "__main__":
    main()
