"""The evaluation job: score every test image, measure, write `results.json` and the report."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

import jaxad
from jaxad.config import load_config, write_json
from jaxad.core import InputError, Variables
from jaxad.data import prepared
from jaxad.data.check import require_readable
from jaxad.data.images import FILTERS
from jaxad.data.layouts import load_dataset
from jaxad.data.manifest import Manifest, Record, shared_images
from jaxad.data.subclasses import by_subclass, of_subclasses
from jaxad.detector import Detector
from jaxad.metrics.summary import mean_metrics
from jaxad.parallel import DataParallel, data_parallel
from jaxad.runs.replicates import add_summary, folders
from jaxad.report.html import write_report
from jaxad.report.view import CategoryView
from jaxad.runs.score_category import score_category
from jaxad.runs.workdir import restore, trained_backbones

CHOICES = {
    "feature_cache": ("auto", "device", "host", "off"),
    "cache_dtype": ("float32", "float16"),
    "sampling": ("natural", "balanced"),
}
"""What words under `train` may be."""


class Job(NamedTuple):
    """One detector: what it is trained on, and the categories it is tested on."""

    name: str
    train: tuple[Record, ...]
    test: dict[str, tuple[Record, ...]]
    """By category, or by `subset_name` where `data.test_subclasses` asks for single subclasses."""


class Outcome(NamedTuple):
    """What results and report need of one detector."""

    metrics: dict[str, dict[str, Any]]
    """By category."""
    views: dict[str, CategoryView]
    seconds: dict[str, float]
    steady: tuple[int, float]


def read_dataset(config: Any) -> Manifest:
    """Load and judge the data set that the configuration names, headers of all files included."""
    data = config.data
    options = {name: data[name].to_dict() for name in ("folder", "texture_ad")}
    options["join"] = {"parts": data.join, **options}
    manifest = load_dataset(
        data.layout,
        data.root,
        categories=name_list(data.categories),
        **options.get(data.layout, {}),
    )
    manifest = of_subclasses(
        manifest, train=name_list(data.train_subclasses), test=name_list(data.test_subclasses)
    )
    if data.one_for_all:
        for line in shared_images(manifest):
            raise InputError(line)
    require_readable(manifest)
    return manifest


def prepared_folder(config: Any) -> Path | None:
    """The folder that `data.prepared` names, if it is one."""
    name = config.data.prepared
    return None if name in ("auto", "off") else Path(name).expanduser()


def name_list(text: str) -> tuple[str, ...]:
    """Split a comma-separated list of names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def check_config(config: Any, parallel: DataParallel) -> None:
    """Refuse what could only fail later: sizes that the devices can not share, unknown choices."""
    for key, choices in CHOICES.items():
        if config.train[key] not in choices:
            known = f"{', '.join(choices[:-1])} or {choices[-1]}"
            raise InputError(f"train.{key} is {config.train[key]!r}: use {known}")
    if config.data.resize not in FILTERS:
        raise InputError(f"data.resize is {config.data.resize!r}: use one of {', '.join(FILTERS)}")
    if not config.data.prepared:
        raise InputError("data.prepared is empty: use auto, off, or name a folder")
    size = config.data.image_size
    if len(size) != 2 or min(size) < 1:
        raise InputError(f"data.image_size is {size}: give (height, width) in pixels")
    if not 0 <= config.train.holdout < 1:
        raise InputError(f"train.holdout is {config.train.holdout}: give a share, 0 up to below 1")
    for key in ("epochs", "log_every", "replicates"):
        if config.train[key] < 1:
            raise InputError(f"train.{key} is {config.train[key]}: use 1 or more")
    if any(steps < 1 for steps in config.train.steps):
        raise InputError(f"train.steps is {config.train.steps}: use 1 or more for each hierarchy")
    n = parallel.device_count
    sizes = [
        ("train.batch_size", config.train.batch_size),
        ("score.batch_size", config.score.batch_size),
        *(("train.positions", count) for count in config.train.positions if count),
    ]
    for key, size in sizes:
        if size < 1 or size % n:
            raise InputError(
                f"{key} is {size}, which {n} devices can not share: use a multiple of {n}"
            )


def jobs(manifest: Manifest, config: Any) -> list[Job]:
    """Split a data set into detectors: one a category, or one for all.

    Each is tested on its categories, or on every subclass of `data.test_subclasses` by itself.
    """
    by_category = {name: manifest.select(name) for name in manifest.categories}
    train = {n: m.select(split="train").records for n, m in by_category.items()}
    test = {
        n: by_subclass(n, m.select(split="test").records, name_list(config.data.test_subclasses))
        for n, m in by_category.items()
    }
    if config.data.one_for_all:
        together = tuple(r for records in train.values() for r in records)
        return [Job("all", together, {k: v for sets in test.values() for k, v in sets.items()})]
    return [Job(name, train[name], test[name]) for name in by_category]


def evaluate_job(
    job: Job,
    root: Path,
    detector: Detector,
    variables: Variables,
    config: Any,
    parallel: DataParallel,
) -> Outcome:
    """Score every category of a job with `Detector.score`."""
    compiled, prepared = parallel.map(detector.score), detector.prepare(variables)
    metrics, views = {}, {}
    total, images, steady = 0.0, 0, 0.0
    for name, records in job.test.items():
        if not records:
            continue
        scored = score_category(
            name,
            records,
            root,
            config,
            lambda images: compiled(prepared, parallel.shard(images)),
            parallel.gather,
            n_train=sum(record.category == records[0].category for record in job.train),
        )
        metrics[name], views[name] = scored.metrics, scored.view
        total += scored.seconds
        images, steady = images + scored.steady[0], steady + scored.steady[1]
    seconds = {"features": 0.0, "train": 0.0, "score": total}
    return Outcome(metrics, views, seconds, (images, steady))


def write_results(outcomes: Sequence[Outcome], config: Any, workdir: Path) -> dict[str, Any]:
    """Write `results.json` and the report from all outcomes so far; return the results."""
    categories = {name: metrics for o in outcomes for name, metrics in o.metrics.items()}
    images, seconds = (sum(outcome.steady[i] for outcome in outcomes) for i in (0, 1))
    results = {
        "method": config.method.name,
        "dataset": config.data.layout,
        "categories": categories,
        "mean": mean_metrics(categories),
        "seconds": {
            key: round(sum(o.seconds[key] for o in outcomes), 3)
            for key in ("features", "train", "score")
        },
        "images_per_second": round(images / seconds, 2) if seconds else None,
        "environment": environment(config),
    }
    write_json(workdir / "results.json", results)
    write_report(
        workdir / "report" / "index.html",
        title=f"{config.method.name} on {config.data.layout}",
        results=results,
        categories={name: view for o in outcomes for name, view in o.views.items()},
        config_text=str(config),
    )
    return results


def environment(config: Any) -> dict[str, Any]:
    """What a figure depends on beside the code."""
    return {
        "jaxad": jaxad.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": jax.local_devices()[0].device_kind,
        "devices": jax.local_device_count(),
        "cores": os.cpu_count(),
        "parallel": config.train.parallel,
    }


def evaluate(workdir: Path) -> dict[str, Any]:
    """Score and measure a trained work directory again; rewrite its results and report."""
    for folder in folders(workdir):
        _evaluate(folder)
    return add_summary(workdir)


def _evaluate(workdir: Path) -> None:
    """Do so for one replicate."""
    config, hashes = load_config(workdir / "config.json")
    parallel = data_parallel(config.train.parallel)
    check_config(config, parallel)
    manifest = read_dataset(config)
    if folder := prepared_folder(config):  # read if it is there; for one pass it is not written
        size, resample = tuple(config.data.image_size), config.data.resize
        manifest = prepared.find(manifest, folder, size=size, resample=resample) or manifest
    backbones = trained_backbones(workdir, config, hashes)
    outcomes = []
    for job in jobs(manifest, config):
        detector, variables = restore(workdir, job.name, config, backbones, parallel.axis_name)
        variables = parallel.replicate(variables)
        outcomes.append(evaluate_job(job, manifest.root, detector, variables, config, parallel))
    if outcomes and (workdir / "results.json").is_file():
        before = json.loads((workdir / "results.json").read_text())["seconds"]
        outcomes[0].seconds.update(features=before["features"], train=before["train"])
    write_results(outcomes, config, workdir)
