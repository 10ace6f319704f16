"""Small runs of every method for `benchmarks.soak`: drawn photos, random networks, seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from jaxad.config import parse_config
from jaxad.data.synthetic import write_dataset

ROOT = Path(__file__).resolve().parents[1]


class Subject(NamedTuple):
    """A run of `jaxad train`."""

    config: str
    layout: str
    changes: dict[str, str]


SMALL = {
    "data.image_size": "(32,32)",
    "data.prepared": "off",
    "data.calibration": "0.2",
    "method.random_weights": "True",
    "score.batch_size": "4",
    "train.batch_size": "4",
    "train.log_every": "1",
    "train.holdout": "0.2",
    "report.examples": "2",
    "checkpoint.every_steps": "4",
    "checkpoint.every_minutes": "0",
}
NETWORK = {"method.backbone": "resnet18", "method.levels": "layer1"}
SUBJECTS = {
    # Two detectors of three phases each, features on the host.
    "mb_pfm": Subject(
        "configs/mb_pfm_fast.py",
        "mvtec_ad",
        {
            "method.source": "resnet18",
            "method.target": "resnet18",
            "method.latent": "(4,6,8)",
            "train.steps": "(24,24,24)",
            "train.positions": "(64,32,16)",
            "train.feature_cache": "host",
        },
    ),
    # One detector for all; no cache, so that every step reads photos, which processes decode.
    "afrad": Subject(
        "configs/afrad.py:mvtec",
        "mvtec_ad",
        {
            **NETWORK,
            "method.width": "(4,)",
            "method.patch_kernel": "(2,)",
            "method.patch_stride": "(2,)",
            "method.refinements": "(1,)",
            "method.decodings": "(1,)",
            "method.adaptive": "(1,)",
            "method.grid": "1",
            "method.local": "(1,)",
            "method.compensation": "(1,)",
            "method.decoder_width": "8",
            "method.local_kernels": "(3,)",
            "train.steps": "(80,)",
            "train.feature_cache": "off",
            "data.workers": "2",
        },
    ),
    # Two detectors, features on the device: steps come in blocks. They are kept on disk, too.
    "simplenet": Subject(
        "configs/simplenet.py",
        "mvtec_ad",
        {
            **NETWORK,
            "method.embedding": "16",
            "method.hidden": "8",
            "train.steps": "(90,)",
            "train.positions": "(48,)",
            "train.feature_cache": "device",
            "checkpoint.features": "True",
        },
    ),
    # Router, then experts of each subclass; photos are decoded once, before all.
    "adapted_moe": Subject(
        "configs/adapted_moe.py:cloth",
        "texture_ad",
        {
            **NETWORK,
            "data.categories": "cloth,wafer",
            "data.train_subclasses": "1,2",
            "data.test_subclasses": "3",
            "data.prepared": "auto",
            "data.workers": "1",
            "method.embedding": "16",
            "method.hidden": "8",
            "method.router_width": "8",
            "method.top_k": "2",
            "train.steps": "(30,40)",
            "train.positions": "(20,)",
        },
    ),
}


def write_data(root: Path) -> dict[str, Path]:
    """Draw the photos of all subjects; layout -> folder."""
    size = (40, 40)
    plain, textures = root / "mvtec_ad", root / "texture_ad"
    write_dataset(
        plain,
        categories=("washer", "plate"),
        n_train=10,
        n_test_good=14,
        n_test_bad=16,
        size=size,
    )
    write_dataset(
        textures,
        layout="texture_ad",
        categories=("cloth", "wafer"),
        subclasses=("1", "2", "3"),
        n_train=6,
        n_test_good=14,
        n_test_bad=16,
        size=size,
    )
    return {"mvtec_ad": plain, "texture_ad": textures}


def command(subject: Subject, data: dict[str, Path], workdir: Path) -> list[str]:
    """The command of a subject's run; the same one starts it and goes on with it."""
    start = [sys.executable, "-m", "jaxad", "train", "--workdir", str(workdir)]
    return [*start, *_flags(subject, data)]


def small_config(name: str, data: dict[str, Path]) -> Any:
    """The configuration of a subject's run."""
    return parse_config(_flags(SUBJECTS[name], data))


def _flags(subject: Subject, data: dict[str, Path]) -> list[str]:
    changes = {**SMALL, "data.root": str(data[subject.layout]), **subject.changes}
    values = (f"--config.{name}={value}" for name, value in changes.items())
    return ["--config", str(ROOT / subject.config), *values]


def environment(cache: Path) -> dict[str, str]:
    """Of the runs: what one compiles serves the next."""
    own = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    return {**os.environ, **own}
