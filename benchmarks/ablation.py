"""Ablations on real photos: every row of a suite, several seeds each.

    python -m benchmarks.ablation afrad --data FOLDER [--rows ROW,ROW] [--seeds 3] [--json FILE]
    python -m benchmarks.ablation adapted_moe --data FOLDER ...        [--config.a.b=VALUE ...]

`afrad`: rows of configs/afrad_ablation.py at the size `small`, one model for bottle, magnetic tiles
and both kinds of solar cells (FOLDER holds `mvtec_ad_256/` and `magnetic_tile/`; ELPV comes as a
package). `adapted_moe`: rows of configs/adapted_moe_ablation.py on magnetic tiles, experts for the
exposures seen in training, tested on others. Features are computed once for all rows; a row is then
what `jaxad train` does with its configuration.

Where `data.test_subclasses` names some that were learnt and some that were not, each kind has a
mean of its own. FILE is written after every row; rows that it holds under the same changes and
seeds are not run again.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.compare import earlier
from benchmarks.sets import JOIN
from configs import adapted_moe_ablation, afrad_ablation
from jaxad.config import apply_changes
from jaxad.core import Method
from jaxad.data.jobs import Job
from jaxad.data.manifest import Manifest
from jaxad.errors import InputError
from jaxad.files import write_json
from jaxad.metrics.pixel import pixel_metrics
from jaxad.metrics.summary import category_metrics, mean_metrics
from jaxad.parallel import DataParallel, data_parallel
from jaxad.recipes.build import build_backbones
from jaxad.recipes.recipe import Backbones
from jaxad.runs.dataset import jobs_of, read_dataset, reading_of
from jaxad.runs.evaluate import environment
from jaxad.runs.train import trainer_of
from jaxad.training import feature_cache as features

METRICS = ("image_auroc", "pixel_auroc", "aupro_0.30")


class Test(NamedTuple):
    """The test images of one category: features, and what is true."""

    found: features.HostFeatures
    labels: np.ndarray[Any, Any]
    masks: np.ndarray[Any, Any]
    has_mask: np.ndarray[Any, Any]
    n_train: int
    """Training images of the category, held-out ones included, as in results.json."""


class Data(NamedTuple):
    """Everything that the rows share."""

    job: Job
    root: Path
    backbones: Backbones
    parallel: DataParallel
    train: features.HostFeatures
    test: dict[str, Test]


def seen(job: Job) -> dict[str, bool]:
    """Which test sets are of a subclass that training photos have."""
    learnt = {(record.category, record.subclass) for record in job.train}
    return {name: (own[0].category, own[0].subclass) in learnt for name, own in job.test.items()}


def training_images(job: Job, name: str) -> int:
    """Training images of the category that a job's test set `name` belongs to."""
    category = job.test[name][0].category
    return sum(record.category == category for record in job.train)


def features_of(config: Any, backbones: Backbones) -> Any:
    """What decides features: pixels and networks."""
    modules = {role: network.module for role, network in backbones.networks.items()}
    return reading_of(config, backbones), modules, backbones.sha256


def prepare(config: Any) -> Data:
    """Read the photos and compute their features."""
    manifest, backbones = read_dataset(config), build_backbones(config)
    (job,) = jobs_of(manifest, config)
    parallel = data_parallel("jit", devices=jax.local_devices()[:1])
    trainer = trainer_of(config, backbones, parallel, capacity=0)
    cache = trainer.extract(Manifest(manifest.root, job.train), job.name)
    test = {}
    for name, records in job.test.items():
        batches: list[Any] = []
        chosen = Manifest(manifest.root, records)
        found = trainer.extract(chosen, name, seen=batches.append)
        truth = {
            key: np.concatenate([batch[key][batch["_mask"]] for batch in batches])
            for key in ("label", "mask", "has_mask")
        }
        test[name] = Test(
            found, truth["label"], truth["mask"], truth["has_mask"], training_images(job, name)
        )
    return Data(job, manifest.root, backbones, parallel, cache, test)


@partial(jax.jit, static_argnames=("method", "size"))
def score_features(
    method: Method, size: tuple[int, int], variables: Any, found: features.HostFeatures
) -> Any:
    """Score features; one program for all seeds of a row, whose method is the same object."""
    return method.score(variables, features.as_float32(found), size=size)


def run_row(config: Any, data: Data, seeds: Sequence[int]) -> dict[str, Any]:
    """Train and measure one row once for every seed."""
    size = tuple(config.data.image_size)
    results, start = [], time.monotonic()
    trainer = trainer_of(config, data.backbones, data.parallel, capacity=len(data.job.train))
    for seed in seeds:
        logged: list[dict[str, Any]] = []
        fit = trainer.fit(
            data.job,
            data.root,
            lambda logged=logged, **values: logged.append(values),
            seed=seed,
            cache=data.train,
        )
        variables = fit.variables
        score = partial(score_features, fit.model.detector.method, size)
        categories = {
            name: measure(score, variables, test, config.score.batch_size)
            for name, test in data.test.items()
        }
        held = {k: v for entry in logged for k, v in entry.items() if k.startswith("holdout_")}
        results.append({**means(categories, seen(data.job)), "categories": categories, **held})
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables.get("params", {})))
    seconds = round((time.monotonic() - start) / len(seeds), 1)
    return {"seeds": results, "parameters": parameters, "seconds_per_seed": seconds}


def means(categories: Mapping[str, Any], learnt: Mapping[str, bool]) -> dict[str, Any]:
    """Means of test sets: of all, and of those learnt and not learnt where there are both."""
    kinds = {"mean": list(categories)}
    if len(set(learnt.values())) == 2:
        kinds["seen"] = [name for name, known in learnt.items() if known]
        kinds["unseen"] = [name for name, known in learnt.items() if not known]
    return {kind: mean_metrics({n: categories[n] for n in own}) for kind, own in kinds.items()}


def shown(seed: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The means that a table has columns of, and their metrics: both kinds, or the one of all."""
    kinds = [kind for kind in ("seen", "unseen") if kind in seed] or ["mean"]
    return [(kind, metric) for kind in kinds for metric in METRICS]


def measure(score: Any, variables: Any, test: Test, size: int) -> dict[str, Any]:
    """Score one category's test images and measure."""
    found = [
        score(variables, features.take_images(test.found, slice(i, i + size)))
        for i in range(0, len(test.labels), size)
    ]
    maps, scores = (np.concatenate([getattr(x, n) for x in found]) for n in ("map", "image"))
    known = test.has_mask
    pixel = pixel_metrics(test.masks[known], maps[known])
    return category_metrics(test.labels, scores, pixel, n_train=test.n_train)


def line(name: str, row: Mapping[str, Any]) -> str:
    """One row of the Markdown table: means and standard deviations over the seeds."""
    cells = [name]
    for kind, metric in shown(row["seeds"][0]):
        values = np.asarray([seed[kind][metric] for seed in row["seeds"]])
        cells.append(f"{values.mean():.4f} ± {values.std(ddof=min(1, len(values) - 1)):.4f}")
    for category in row["seeds"][0]["categories"]:
        each = [seed["categories"][category]["image_auroc"] for seed in row["seeds"]]
        cells.append(f"{np.mean(each):.3f}")
    cells += [f"{row['parameters'] / 1e6:.2f} M", f"{row['seconds_per_seed']:.0f} s"]
    return "| " + " | ".join(cells) + " |"


def header(row: Mapping[str, Any]) -> list[str]:
    """The columns of `line`."""
    first = row["seeds"][0]
    kinds = [metric if kind == "mean" else f"{kind}: {metric}" for kind, metric in shown(first)]
    return ["row", *kinds, *first["categories"], "parameters", "time"]


def afrad_row(row: str, data: str) -> Any:
    """One AFRAD for four categories of three data sets."""
    config = afrad_ablation.get_config(f"{row}-small")
    config.data.layout, config.data.root, config.data.join = "join", data, JOIN
    return config


def moe_row(row: str, data: str) -> Any:
    """Magnetic tiles under exposures that training has not seen."""
    config = adapted_moe_ablation.get_config(row)
    config.data.root = f"{data}/magnetic_tile"
    return config


# Rows that say the same of the full model are run once.
SAME = ("table6-row5", "table7-row2")
SUITES: dict[str, tuple[Callable[[str, str], Any], list[str]]] = {
    "afrad": (afrad_row, [row for row in afrad_ablation.ROWS if row not in SAME]),
    "adapted_moe": (moe_row, list(adapted_moe_ablation.ROWS)),
}
"""Name -> its rows' configurations, and their names."""


def known(path: Path | None, changes: Sequence[str]) -> dict[str, Any]:
    """The rows of an earlier sitting.

    Raises:
        InputError: The file is not one of ours, or its rows were configured otherwise.
    """
    found = earlier(path, rows=dict, changes=list)
    if found is None:
        return {}
    rows, before = found
    if before != list(changes):
        raise InputError(
            f"{path}: its rows were run with {' '.join(before) or 'no changes'}: "
            "give the same, or choose another --json"
        )
    return dict(rows)


def main() -> None:
    """Run the rows that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--data", required=True, help="folder of the data sets")
    parser.add_argument("--rows", default="", help="comma-separated; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all results here, after every row")
    args, changes = parser.parse_known_args()
    row_config, every = SUITES[args.suite]
    rows = args.rows.split(",") if args.rows else every

    def changed(row: str) -> Any:
        config = row_config(row, args.data)
        apply_changes(config, changes)
        return config

    def hidden(text: str) -> str:
        return text.replace(args.data, "FOLDER")  # where the data lie is nobody's business

    told = [hidden(change) for change in changes]
    found = known(args.json, told)
    about = {
        "date": datetime.date.today().isoformat(),
        "command": hidden(" ".join(["python -m benchmarks.ablation", *sys.argv[1:]])),
        "changes": told,
        "environment": environment(changed(rows[0])),
    }
    data: Data | None = None
    read = None
    for row in rows:
        if len(found.get(row, {}).get("seeds", ())) != args.seeds:
            config = changed(row)
            needed = features_of(config, build_backbones(config))
            if data is None or needed != read:  # rows that read the same share
                data, read = prepare(config), needed
            found[row] = {**run_row(config, data, range(args.seeds)), "date": about["date"]}
            if args.json:
                write_json(args.json, {**about, "rows": found})
        if row == rows[0]:
            heads = header(found[row])
            print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
        print(line(row, found[row]), flush=True)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
