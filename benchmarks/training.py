"""Time to the accuracy bar: `jaxad train` against the reference recipe in PyTorch.

    python -m benchmarks.training [--data FOLDER] [--epochs_to_bar 200] [--pairs 7]
        [--fake] [--json FILE]

Ours is the whole command, `jaxad train --config configs/mb_pfm_fast.py` on MVTec AD's bottle, from
the start of Python to the report; FOLDER holds `mvtec_ad_256/`. Its accuracy is compared with the
bar; as the authors do, it trains on all normal photos (`data.calibration=0`). The peer (`pip
install -e .[peer]`) is the authors' recipe: MB-PFM from ResNet-34 to ResNet-50, batches of 8 whole
images, one Adam with L2 a level. So two recipes are compared, with other networks and another
number of steps, not two libraries. Nobody waits for the peer's end: a few steps are timed, in turn
with ours, and

    seconds = steps a epoch × epochs to the bar × seconds a step

with the 200 epochs that the authors train (`--epochs_to_bar`; their last epoch counts, and their
log still jumps at epoch 80). It stands on two footings: uncached, as published, where both frozen
networks see every image in every epoch, and cached, where features are computed once. Decoding,
evaluation and starting Python are not counted for the peer. Its weights and images are random,
which changes neither its arithmetic nor its time; the memory format is the faster of the two. Our
own steps with the same networks, batch and whole maps stand beside it.

`--fake` takes drawn pictures and random weights, few steps and no bar: it proves that all runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.detectors import configure
from benchmarks.measure import machine, markdown
from benchmarks.reference_recipe import BATCH, EPOCHS, costs, our_runs, row_of
from jaxad.core import InputError
from jaxad.data.synthetic import write_dataset
from jaxad.files import write_json

BAR = {"image_auroc": 0.999, "pixel_auroc": 0.980, "aupro_0.30": 0.948}
"""Bottle's, the least that a fast recipe must reach."""
CONFIG = "configs/mb_pfm_fast.py"
FAKE = {
    "train.steps": "(2,2,2)",
    "train.positions": "(64,64,64)",
    "data.image_size": "(64,64)",
    "method.random_weights": "True",
    "method.target": "resnet18",
    "method.latent": "(20,40,40)",
}
"""Enough to run every part of the command."""


def reached(metrics: dict[str, Any], bar: dict[str, float]) -> bool:
    """Whether every metric is there, and not below the bar."""
    return all(
        metrics.get(name) is not None and metrics[name] >= least for name, least in bar.items()
    )


def our_command(data: Path, workdir: Path, *, fake: bool) -> list[str]:
    """The command that is timed."""
    changes = {"data.root": str(data), "data.categories": "bottle", "data.calibration": "0"}
    changes |= FAKE if fake else {}
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    start = [sys.executable, "-m", "jaxad", "train", "--config", CONFIG]
    return [*start, "--workdir", str(workdir), "--overwrite", *flags]


def ours(data: Path, workdir: Path, *, fake: bool) -> dict[str, Any]:
    """Run our command; returns its row.

    Raises:
        InputError: It failed; its last line.
    """
    command = our_command(data, workdir, fake=fake)
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    wall = time.monotonic() - start
    if done.returncode:
        raise InputError(
            f"jaxad train failed: {(done.stderr.strip() or 'no word').splitlines()[-1]}"
        )
    results = json.loads((workdir / "results.json").read_text())
    metrics = results["categories"]["bottle"]
    row = {
        "name": "fast",
        "library": "jaxad",
        "command": " ".join(["jaxad", *our_command(Path("DATA"), Path("RUN"), fake=fake)[3:]]),
        "seconds": wall,
        "parts": results["seconds"],
        "metrics": {name: metrics[name] for name in BAR},
    }
    return row if fake else {**row, "bar": BAR, "reached": reached(metrics, BAR)}


HEAD = (
    *("library", "recipe", "s a step", "s features a step"),
    *("s an epoch", "epochs", "s in all", "how", "ratio"),
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown; ratio = seconds of a row / ours, which is another recipe."""

    def how(row: dict[str, Any]) -> str:
        steps = row.get("extrapolated_from_steps")
        return "measured" if steps is None else f"extrapolated from {steps} steps"

    def number(value: Any, digits: int) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    return markdown(
        HEAD,
        [
            (
                row["library"],
                row["name"],
                number(row.get("step_seconds"), 3),
                number(row.get("features_seconds"), 3),
                number(row.get("per_epoch_seconds"), 1),
                row.get("epochs", "–"),
                number(row["seconds"], 1),
                how(row),
                number(row.get("ratio"), 1),
            )
            for row in rows
        ],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure both sides; 1 if ours missed the bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="folder of mvtec_ad_256/")
    source.add_argument("--fake", action="store_true", help="drawn pictures, no accuracy")
    parser.add_argument("--epochs_to_bar", type=int, default=EPOCHS, help="of the reference")
    parser.add_argument("--pairs", type=int, default=7, help="steps of each that are timed")
    parser.add_argument("--json", type=Path, help="write all rows here")
    args = parser.parse_args(argv)
    if args.epochs_to_bar < 1 or args.pairs < 1:
        parser.error("--epochs_to_bar and --pairs are 1 or more")
    try:
        from benchmarks.torch_training import peer_runs
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        parser.error("PyTorch is missing: pip install -e .[peer]")

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if args.fake:
            write_dataset(
                root, categories=("bottle",), n_train=8, n_test_good=2, n_test_bad=3, size=(64, 64)
            )
        data = root if args.fake else args.data / "mvtec_ad_256"
        try:
            rows = [ours(data, root / "run", fake=args.fake)]
        except InputError as error:
            print(error, file=sys.stderr)
            return 2

    config = configure("mb_pfm", image_size=(64, 64) if args.fake else None)
    size = tuple(config.data.image_size)
    images = np.random.default_rng(0).integers(0, 256, (BATCH, *size, 3), dtype=np.uint8)
    recipes = {f"pytorch {form}": runs for form, runs in peer_runs(config, images).items()}
    found = costs({**recipes, "jaxad": our_runs(config, images)}, pairs=args.pairs)
    for library in ("pytorch", "jaxad"):
        for cached in (False, True):
            each = [
                row_of(
                    *name.partition(" ")[::2],
                    cost,
                    timed_steps=args.pairs,
                    epochs=args.epochs_to_bar,
                    cached=cached,
                )
                for name, cost in found.items()
                if name.startswith(library)
            ]
            rows.append(min(each, key=lambda row: row["seconds"]))
    for row in rows:
        row["ratio"] = row["seconds"] / rows[0]["seconds"]
    print(table(rows))
    if args.json:
        head = {**machine(), "pairs": args.pairs, "fake": args.fake, "size": size}
        written = {"benchmark": "training", "machine": head, "rows": rows}
        write_json(args.json, written)
    return int(rows[0].get("reached") is False)


if __name__ == "__main__":
    sys.exit(main())
