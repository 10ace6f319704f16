"""The evaluation job: score every test image, measure, write `results.json` and the report."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxad
from jaxad.config import load_config, write_json
from jaxad.core import InputError, Variables
from jaxad.data.check import require_readable
from jaxad.data.decode import decode_image
from jaxad.data.images import FILTERS
from jaxad.data.layouts import load_dataset
from jaxad.data.manifest import Manifest, Record, shared_images
from jaxad.data.pipeline import batches
from jaxad.data.subclasses import by_subclass, of_subclasses
from jaxad.detector import Detector
from jaxad.metrics.summary import category_metrics, mean_metrics
from jaxad.parallel import DataParallel, data_parallel
from jaxad.progress import track
from jaxad.replicates import add_summary, folders
from jaxad.report.html import write_report
from jaxad.report.view import CategoryView, view_category
from jaxad.workdir import restore, trained_backbones

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


class Scored(NamedTuple):
    """One category's test images, scored."""

    records: tuple[Record, ...]
    labels: np.ndarray[Any, Any]
    """`(N,)` 0 or 1."""
    scores: np.ndarray[Any, Any]
    """`(N,)` float32."""
    maps: np.ndarray[Any, Any]
    """`(N, H, W)` float32."""
    masks: np.ndarray[Any, Any]
    """`(N, H, W)` bool."""
    has_mask: np.ndarray[Any, Any]
    """`(N,)` bool: whether `masks` tells the truth of this image."""
    seconds: float
    steady: tuple[int, float]
    """Images and seconds after the first batch, which compiles."""


class Outcome(NamedTuple):
    """What results and report need of one detector; the score maps are not kept."""

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


def score_category(
    name: str,
    records: Sequence[Record],
    root: Path,
    detector: Detector,
    variables: Variables,
    config: Any,
    parallel: DataParallel,
    score: Any,
) -> Scored:
    """Score the test images of one category in their order."""
    height, width = config.data.image_size
    count, size = len(records), config.score.batch_size
    maps = np.empty((count, height, width), np.float32)
    scores = np.empty(count, np.float32)
    masks = np.zeros((count, height, width), bool)
    has_mask = np.zeros(count, bool)
    stream = batches(
        Manifest(root, tuple(records)),
        image_size=(height, width),
        batch_size=size,
        resample=config.data.resize,
        workers=config.data.workers,
    )
    start = warm = time.monotonic()
    done = first = 0
    for batch in track(stream, f"{name} score", count, "images", size):
        valid = batch["_mask"]
        rows = slice(done, done + int(valid.sum()))
        found = score(variables, parallel.shard(batch["image"]))
        maps[rows], scores[rows] = found.map[valid], found.image[valid]
        masks[rows], has_mask[rows] = batch["mask"][valid], batch["has_mask"][valid]
        done = rows.stop
        if rows.start == 0:
            warm, first = time.monotonic(), done
    end = time.monotonic()
    if not np.isfinite(scores).all() or not np.isfinite(maps).all():
        bad = records[int(np.flatnonzero(~np.isfinite(scores + maps.sum(axis=(1, 2))))[0])].path
        raise InputError(f"the score of {bad} is not finite: check the weights, or train again")
    labels = np.asarray([not record.is_good for record in records], np.int32)
    maskless = int((~has_mask).sum())
    if 0 < maskless < labels.sum():
        print(
            f"{name}: {maskless} of {labels.sum()} defective images have no mask; "
            "pixel metrics leave them out",
            file=sys.stderr,
        )
    steady = (done - first, end - warm) if done > first else (done, end - start)
    return Scored(tuple(records), labels, scores, maps, masks, has_mask, end - start, steady)


def evaluate_job(
    job: Job,
    root: Path,
    detector: Detector,
    variables: Variables,
    config: Any,
    parallel: DataParallel,
) -> Outcome:
    """Score every category of a job with `Detector.score`."""
    score = parallel.map(detector.score)
    metrics, views = {}, {}
    total, images, steady = 0.0, 0, 0.0
    for name, records in job.test.items():
        if not records:
            continue
        scored = score_category(name, records, root, detector, variables, config, parallel, score)
        n_train = sum(record.category == records[0].category for record in job.train)
        metrics[name] = measure(scored, n_train)
        views[name] = view_scored(scored, root, config)
        total += scored.seconds
        images, steady = images + scored.steady[0], steady + scored.steady[1]
    seconds = {"features": 0.0, "train": 0.0, "score": total}
    return Outcome(metrics, views, seconds, (images, steady))


def measure(scored: Scored, n_train: int) -> dict[str, Any]:
    """All metrics of one category; images whose mask is unknown count for image metrics only."""
    known = scored.has_mask
    masks, maps = scored.masks[known], scored.maps[known]
    return category_metrics(scored.labels, scored.scores, masks, maps, n_train=n_train)


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


def view_scored(scored: Scored, root: Path, config: Any) -> CategoryView:
    """What the report shows of one category."""
    return view_category(
        [record.path for record in scored.records],
        scored.labels,
        scored.scores,
        scored.maps,
        load=lambda i: decode_image(
            root,
            scored.records[i],
            size=tuple(config.data.image_size),
            resample=config.data.resize,
        ),
        masks=scored.masks,
        has_mask=scored.has_mask & (scored.masks.any(axis=(1, 2)) | (scored.labels == 0)),
        n=config.report.examples,
    )


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
