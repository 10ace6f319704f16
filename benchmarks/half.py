"""What training in bfloat16 does to accuracy: the same detectors in float32 and in bfloat16.

    python -m benchmarks.half --data FOLDER [--only NAME ...] [--seeds 3] [--json FILE]
    python -m benchmarks.half --fake

FOLDER holds `mvtec_ad_256/`. Every row is a few `jaxad train` on bottle, at 64 pixels and with few
steps, so that a CPU does it: each seed once in either type (`train.dtype`), scored in float32. The
difference is that of one seed's two runs. `--fake` takes drawn parts and random weights: it proves
that all runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, markdown
from jaxad.config import parse_config
from jaxad.data.synthetic import write_dataset
from jaxad.errors import InputError
from jaxad.files import write_json
from jaxad.runs.train import train

METRICS = ("image_auroc", "pixel_auroc", "aupro_0.30")
DTYPES = ("float32", "bfloat16")
COMMON = {"data.image_size": "(64,64)", "data.categories": "bottle", "data.calibration": "0"}
SETTINGS: dict[str, tuple[str, dict[str, str]]] = {
    "simplenet": (
        "configs/simplenet_fast.py",
        {**COMMON, "train.steps": "(120,)", "train.positions": "(512,)"},
    ),
    "pfm": (
        "configs/mb_pfm_fast.py",
        {**COMMON, "train.steps": "(40,60,120)", "train.positions": "(256,256,256)"},
    ),
    "afrad": ("configs/afrad_fast.py", {**COMMON, "train.steps": "(120,)"}),
}
"""Name -> configuration and its changes."""
FAKE = {
    "pfm": {
        "train.steps": "(2,2,2)",
        "train.positions": "(64,64,64)",
        "method.target": "resnet18",
        "method.latent": "(20,40,40)",
    },
    "simplenet": {"train.steps": "(2,)", "train.positions": "(64,)"},
    "afrad": {"train.steps": "(2,)"},
}


def run(name: str, dtype: str, seed: int, root: Path, *, fake: bool) -> dict[str, Any]:
    """Train and measure once."""
    path, changes = SETTINGS[name]
    changes = {**changes, "data.root": str(root), "train.dtype": dtype, "train.seed": str(seed)}
    if fake:
        small = {"data.image_size": "(64,64)", "method.random_weights": "True"}
        changes |= {**small, **FAKE[name]}
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        results = train(parse_config(["--config", path, *flags]), Path(folder) / "run")
    found = {metric: results["mean"][metric] for metric in METRICS}
    return {"dtype": dtype, "seed": seed, "seconds": time.monotonic() - start, **found}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: mean and standard deviation of each type, and the differences of pairs."""
    lines = []
    for row in rows:
        runs = {dtype: [r for r in row["runs"] if r["dtype"] == dtype] for dtype in DTYPES}
        for dtype, own in runs.items():
            cells = [_spread([r[metric] for r in own]) for metric in METRICS]
            lines.append((row["name"], dtype, *cells))
        pairs = list(zip(*(runs[dtype] for dtype in DTYPES)))
        differences = [[half[m] - full[m] for full, half in pairs] for m in METRICS]
        cells = [
            f"{statistics.fmean(d):+.4f} ({min(d):+.4f} to {max(d):+.4f})" for d in differences
        ]
        lines.append(("", "difference", *cells))
    return markdown(("detector", "trained in", "image AUROC", "pixel AUROC", "AUPRO@0.3"), lines)


def _spread(values: Sequence[float]) -> str:
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.4f} ± {sd:.4f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; 2 for input that is of no use."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="folder of mvtec_ad_256/")
    source.add_argument("--fake", action="store_true", help="drawn parts, random weights")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3, help="runs of each")
    parser.add_argument("--json", type=Path, help="write all results here")
    args = parser.parse_args(argv)
    if args.seeds < 1:
        parser.error("--seeds is 1 or more")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) if args.fake else args.data / "mvtec_ad_256"
        if args.fake:
            write_dataset(
                root,
                categories=("bottle",),
                n_train=4,
                n_test_good=2,
                n_test_bad=2,
                size=(64, 64),
            )
        try:
            for name in args.only:
                runs = [
                    run(name, dtype, seed, root, fake=args.fake)
                    for seed in range(args.seeds)
                    for dtype in DTYPES
                ]
                path, changes = SETTINGS[name]
                row = {"name": name, "config": path, "changes": changes, "runs": runs}
                rows.append({**row, "machine": machine(), "fake": args.fake})
                print(table(rows[-1:]), flush=True)
                if args.json:
                    write_json(args.json, {"benchmark": "half", "rows": rows})
        except InputError as error:
            print(error, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
