"""Accuracy on real photos: train every setting of docs/accuracy.md and print its row.

    python -m benchmarks.accuracy --data FOLDER [--only NAME ...] [--json FILE]
    python -m benchmarks.readme FILE --write docs/accuracy.md
    python -m benchmarks.accuracy --suite field --data FOLDER ...   (see benchmarks/field.py)

FOLDER holds `mvtec_ad_256/` (layout mvtec_ad), `magnetic_tile/` (with manifest.csv) and
`cifar10_subset/` (as published in Python's pickles); ELPV comes as a package. A row is one `jaxad
train` with the printed command; wall time is the whole command's. FILE is written after every
setting; settings that it has already and that are not run again stay in it. As in the papers, all
normal photos are trained on: `data.calibration=0`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import field
from benchmarks.compare import read
from benchmarks.measure import machine, markdown
from benchmarks.sets import BOTTLE, JOIN, TILES
from jaxad.config import parse_config
from jaxad.data.layouts.cifar10 import SETTINGS as CIFAR
from jaxad.errors import InputError
from jaxad.files import write_json
from jaxad.runs.train import train

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
            {"data.root": "{data}/cifar10_subset", "train.replicates": "3"},
        )
        for normal in CIFAR
    },
}
"""Name -> configuration and its changes."""

METRICS = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "aupro_0.30")


def run(name: str, data: str, runs: Path) -> dict[str, Any]:
    """Train one setting; returns its row: results, command, machine and wall time."""
    path, changes = SETTINGS[name]
    changes = {**changes, "data.calibration": "0"}
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    arguments = ["--config", path, *(flag.format(data=data) for flag in flags)]
    start = time.monotonic()
    results = train(parse_config(arguments), runs / name, overwrite=True)
    said = [
        "--config",
        path,
        "--workdir",
        f"RUNS/{name}",
        *(f.format(data="FOLDER") for f in flags),
    ]
    return {
        "name": name,
        "config": path,
        "command": " ".join(["jaxad train", *said]),
        "machine": machine(),
        "wall_seconds": round(time.monotonic() - start, 1),
        **results,
    }


HEAD = (
    *("data", "configuration", "image AUROC", "image AP", "F1-max", "pixel AUROC", "AUPRO@0.3"),
    *("train / test images", "whole command"),
)
TITLES = {
    "bottle": "MVTec AD bottle",
    "magnetic_tile": "magnetic tile",
    "mono": "ELPV mono",
    "poly": "ELPV poly",
}
"""Categories in words."""


def lines(row: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Lines of the table of one setting, one a category; the command's time stands in the first."""
    path, wall = f"`{row['config']}`", f"{row['wall_seconds'] / 60:.1f} min"
    found = []
    for number, (name, metrics) in enumerate(row["categories"].items()):
        values = ("–" if metrics[m] is None else f"{metrics[m]:.4f}" for m in METRICS)
        counts = f"{metrics['n_train']} / {metrics['n_test']}"
        time_ = wall if not number else "same"
        found.append((TITLES.get(name, name), path, *values, counts, time_))
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    return markdown(HEAD, [line for row in rows for line in lines(row)])


def merged(rows: Sequence[dict[str, Any]], path: Path | None) -> dict[str, Any]:
    """The new rows, and of the file those that were not measured again, in the settings' order.

    Raises:
        InputError: The file holds something else.
    """
    every = {row["name"]: row for row in rows}
    if path and path.exists():
        before = read(path).get("benchmarks", {}).get("accuracy")
        if before is None:
            raise InputError(f"{path}: not a file of benchmarks.accuracy: choose another --json")
        every = {row["name"]: row for row in before["rows"]} | every
    order = list(SETTINGS)
    return {
        "benchmark": "accuracy",
        "rows": sorted(every.values(), key=lambda row: order.index(row["name"])),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; 2 for a file that is of no use."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--suite", choices=("settings", "field"), default="settings")
    asked, rest = parser.parse_known_args(argv)
    if asked.suite == "field":
        return field.main(rest)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parser])
    parser.add_argument("--data", required=True, help="folder of the data sets")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--runs", type=Path, default=Path("runs/accuracy"), help="work directories")
    parser.add_argument("--json", type=Path, help="write all results here")
    args = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    try:
        merged(rows, args.json)  # before hours of work
        for name in args.only:
            rows.append(run(name, args.data, args.runs))
            print(rows[-1]["command"], file=sys.stderr)
            print(table(rows[-1:]), flush=True)
            if args.json:
                write_json(args.json, merged(rows, args.json))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
