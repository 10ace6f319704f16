"""AFRAD's ablation on real photos: every row of configs/afrad_ablation.py, several seeds each.

    python -m benchmarks.ablation --data FOLDER [--rows ROW,ROW] [--seeds 3] [--json FILE]

FOLDER holds `mvtec_ad_256/` and `magnetic_tile/`; ELPV comes as a package. One model learns bottle,
magnetic tiles and both kinds of solar cells together. Features are computed once for all rows; a
row is then what `jaxad train` does with its configuration, at the size `small`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.accuracy import JOIN
from configs.afrad_ablation import ROWS, get_config
from jaxad import features
from jaxad.build import build_backbones, build_method
from jaxad.data.manifest import Manifest
from jaxad.data.pipeline import batches
from jaxad.detector import Detector
from jaxad.evaluate import environment, jobs, read_dataset
from jaxad.fit import balanced, extract_features, training_stream
from jaxad.metrics.summary import category_metrics, mean_metrics
from jaxad.parallel import data_parallel
from jaxad.plan import Backbones
from jaxad.progress import track
from jaxad.state import init_state
from jaxad.steps import make_train_step

METRICS = ("image_auroc", "pixel_auroc", "aupro_0.30")


class Test(NamedTuple):
    """The test images of one category: features, and what is true."""

    found: features.HostFeatures
    labels: np.ndarray[Any, Any]
    masks: np.ndarray[Any, Any]
    has_mask: np.ndarray[Any, Any]


class Data(NamedTuple):
    """Everything that the rows share."""

    job: Any
    root: Path
    backbones: Backbones
    shapes: Any
    train: features.HostFeatures
    test: dict[str, Test]


def prepare(config: Any) -> Data:
    """Read the photos and compute their features."""
    manifest, backbones = read_dataset(config), build_backbones(config)
    (job,) = jobs(manifest, config)
    detector = Detector(backbones.networks, build_method(config, backbones.networks)[0])
    size, count = tuple(config.data.image_size), config.score.batch_size
    shapes = detector.feature_shapes(backbones.variables, size=size)
    parallel = data_parallel("jit", devices=jax.local_devices()[:1])
    extract = parallel.map(lambda v, images: detector.features({"backbones": v}, images))
    frozen = backbones.variables
    train = extract_features(job, manifest.root, shapes, extract, frozen, config, parallel)
    test = {}
    for name, records in job.test.items():
        cache = features.allocate(shapes, len(records), dtype=config.train.cache_dtype)
        labels, masks, has, done = [], [], [], 0
        stream = batches(
            Manifest(manifest.root, tuple(records)),
            image_size=size,
            batch_size=count,
            resample=config.data.resize,
        )
        for batch in track(stream, f"{name} features", len(records), "images", count):
            valid = batch["_mask"]
            found = extract(frozen, batch["image"])
            features.store(cache, done, {key: value[valid] for key, value in found.items()})
            done += int(valid.sum())
            labels.append(batch["label"][valid])
            masks.append(batch["mask"][valid])
            has.append(batch["has_mask"][valid])
        test[name] = Test(cache, *(np.concatenate(x) for x in (labels, masks, has)))
    return Data(job, manifest.root, backbones, shapes, train, test)


def run_row(config: Any, data: Data, seeds: Sequence[int]) -> dict[str, Any]:
    """Train and measure one row once for every seed."""
    method, (phase,) = build_method(config, data.backbones.networks)
    optimizer = method.optimizer(phase.steps)

    def loss(variables: Any, batch: Any, rng: Any) -> Any:
        return method.loss(variables, features.as_float32(batch), {}, rng)

    step = jax.jit(make_train_step(loss, optimizer), donate_argnums=0)
    size = tuple(config.data.image_size)
    score = jax.jit(lambda v, found: method.score(v, features.as_float32(found), size=size))
    everything = np.arange(len(data.job.train))
    kept = balanced(everything, [record.category for record in data.job.train])
    results, start = [], time.monotonic()
    for seed in seeds:
        config.train.seed = seed
        rng = jax.random.key(seed)
        state = init_state(method.init(rng, data.shapes), optimizer)
        stream = training_stream(phase, data.job, data.root, data.train, kept, config)
        for _ in range(phase.steps):
            state, _ = step(state, next(stream), rng)
        categories = {
            name: measure(score, state.variables, test, config.score.batch_size)
            for name, test in data.test.items()
        }
        results.append({"mean": mean_metrics(categories), "categories": categories})
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.variables["params"]))
    seconds = round((time.monotonic() - start) / len(seeds), 1)
    return {"seeds": results, "parameters": parameters, "seconds_per_seed": seconds}


def measure(score: Any, variables: Any, test: Test, size: int) -> dict[str, Any]:
    """Score one category's test images and measure."""
    found = [
        score(variables, features.take_images(test.found, slice(i, i + size)))
        for i in range(0, len(test.labels), size)
    ]
    maps, scores = (np.concatenate([getattr(x, n) for x in found]) for n in ("map", "image"))
    known = test.has_mask
    return category_metrics(test.labels, scores, test.masks[known], maps[known], n_train=0)


def line(name: str, row: Mapping[str, Any]) -> str:
    """One row of the Markdown table: means and standard deviations over the seeds."""
    cells = [name]
    for metric in METRICS:
        values = np.asarray([seed["mean"][metric] for seed in row["seeds"]])
        cells.append(f"{values.mean():.4f} ± {values.std(ddof=min(1, len(values) - 1)):.4f}")
    for category in row["seeds"][0]["categories"]:
        each = [seed["categories"][category]["image_auroc"] for seed in row["seeds"]]
        cells.append(f"{np.mean(each):.3f}")
    cells += [f"{row['parameters'] / 1e6:.2f} M", f"{row['seconds_per_seed']:.0f} s"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run the rows that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of the data sets")
    parser.add_argument("--rows", default="", help="comma-separated; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all results here, after every row")
    args = parser.parse_args()

    def row_config(row: str) -> Any:
        config = get_config(f"{row}-small")
        config.data.layout, config.data.root, config.data.join = "join", args.data, JOIN
        return config

    # Rows that say the same of the full model are run once.
    same = ("table6-row5", "table7-row2")
    rows = args.rows.split(",") if args.rows else [row for row in ROWS if row not in same]
    config = row_config(rows[0])
    data = prepare(config)
    heads = ["row", *METRICS, *data.test, "parameters", "time"]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|", flush=True)
    results: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "command": f"python -m benchmarks.ablation --data {args.data} --seeds {args.seeds}",
        "environment": environment(config),
        "rows": {},
    }
    for row in rows:
        results["rows"][row] = run_row(row_config(row), data, range(args.seeds))
        print(line(row, results["rows"][row]), flush=True)
        if args.json:
            args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
