"""Training on photos that never were files: the trainer of `jaxad train`, and nothing on disk."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxad.config import check_config, load_file
from jaxad.core import InputError, Variables
from jaxad.data.arrays import CATEGORY, ArrayReading, records_of
from jaxad.data.jobs import Job
from jaxad.detector import Detector
from jaxad.parallel import data_parallel
from jaxad.recipes.build import build_backbones, learns_subclasses, models
from jaxad.runs.train import budget_of
from jaxad.training.fit import Trainer


def fit(
    config: str | Path | ConfigDict,
    images_u8: np.ndarray,
    *,
    subclasses: Sequence[str] | None = None,
    seed: int | None = None,
    progress: bool = False,
    log: Callable[..., None] = lambda **values: None,
) -> tuple[Detector, Variables]:
    """Train a detector on normal photos in memory.

    The same configuration, pixels, weights and devices give the detector of `jaxad train`, bit for
    bit. All photos are trained on: hold back what thresholds are to be set by. What a configuration
    says of files (`data`, `score`, `report`, `checkpoint`, replicates) does not matter.

    Args:
        config: A configuration that comes with jaxad, such as "mb_pfm_lite", a file, or a
            ConfigDict, which stays as it is.
        images_u8: `(N, H, W, 3)` uint8 RGB. They are not resized: a detector scores photos of this
            size, whatever `data.image_size` is.
        subclasses: N names of kinds, for methods that learn each kind by itself.
        seed: Of the training; None: the configuration's.
        progress: Whether to say on standard error how far it is.
        log: Called with what would stand in a line of train.jsonl.

    Returns:
        `(detector, variables)`; `detector.score(variables, images_u8)` is jit-able.

    Raises:
        InputError: Other arrays, an unusable configuration or weights, or training diverges.
    """
    own = load_file(str(config)) if isinstance(config, (str, Path)) else config
    own = own.copy_and_resolve_references()
    images = np.asarray(images_u8)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or not len(images):
        raise InputError(
            f"photos are {images.dtype} of shape {images.shape}: give uint8 (N, H, W, 3), N above 0"
        )
    if subclasses is not None and len(subclasses) != len(images):
        raise InputError(
            f"{len(subclasses)} subclasses for {len(images)} photos: give one for each"
        )
    own.data.image_size = images.shape[1:3]
    if seed is not None:
        own.train.seed = seed
    check_config(own)
    with contextlib.nullcontext() if progress else contextlib.redirect_stderr(io.StringIO()):
        return _fit(own, images, subclasses, log)


def _fit(
    config: Any, images: np.ndarray, subclasses: Sequence[str] | None, log: Callable[..., None]
) -> tuple[Detector, Variables]:
    parallel = data_parallel(config.train.parallel)
    if parallel.processes > 1:
        raise InputError("arrays are trained on by one process: use jaxad train for several")
    backbones = build_backbones(config)
    height, width = config.data.image_size
    reading = ArrayReading((height, width), "nearest", images=images)
    trainer = Trainer(
        backbones,
        models(config, backbones, axis_name=parallel.axis_name),
        budget_of(config, parallel),
        reading,
        parallel,
        capacity=len(images),
    )
    # Only methods that learn kinds are told of them, as in a data set that has none.
    kinds = subclasses if learns_subclasses(config) else None
    job = Job(CATEGORY, records_of(len(images), kinds), {})
    found = trainer.fit(job, Path(), log, seed=config.train.seed)
    variables = {"backbones": backbones.variables, "method": found.variables}
    return found.model.detector, variables
