"""Where a run reads its photos: from their files, or decoded and resized once before it."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxad.training import feature_cache as features
from jaxad.data import prepared
from jaxad.data.manifest import Manifest
from jaxad.runs.evaluate import Job, prepared_folder
from jaxad.training.fit import cache_place
from jaxad.recipes.recipe import Phase

FOLDER = ".prepared"
"""In a work directory, while it is trained, where `data.prepared` is "auto"."""
WORTH = 1.5
"""Photos are prepared where each is read so many times on average: once costs a little more."""
DISK_SHARE = 0.5
"""Unasked, they may take this share of the disk that is free."""


@contextmanager
def readable(manifest: Manifest, config: Any, workdir: Path, *, reads: float) -> Iterator[Manifest]:
    """Give the manifest from which a run reads fastest, as `data.prepared` wishes.

    Args:
        manifest: Of the photos' files.
        config: See `jaxad.config`.
        workdir: Holds the photos while the run lasts, if no folder is named.
        reads: How often the run reads a photo; see `reads_of`.

    Raises:
        InputError: The folder that is named can not be written to, or what it holds is damaged.
    """
    size, resample = tuple(config.data.image_size), config.data.resize
    options = {"size": size, "resample": resample, "workers": config.data.workers}
    if folder := prepared_folder(config):
        yield prepared.write(manifest, folder, **options)
        return
    if config.data.prepared == "off" or reads < WORTH:
        yield manifest
        return
    need, free = prepared.nbytes(len(manifest), size), shutil.disk_usage(workdir).free
    if need > DISK_SHARE * free:
        print(
            f"decoding every photo {reads:.0f} times: prepared ones would need {need / 1e9:.1f} "
            f"of {free / 1e9:.1f} GB; name a folder with more room by data.prepared",
            file=sys.stderr,
        )
        yield manifest
        return
    try:
        yield prepared.write(manifest, workdir / FOLDER, **options)
    finally:
        shutil.rmtree(workdir / FOLDER, ignore_errors=True)


def reads_of(jobs: Sequence[Job], phases: Sequence[Phase], shapes: Any, config: Any) -> float:
    """How often a run decodes a photo, on average over those that it uses.

    Features that are kept are computed once, for all replicates that share their networks.

    Args:
        jobs: All detectors of a replicate.
        phases: Of the training of each.
        shapes: Of one image's features.
        config: See `jaxad.config`.
    """
    train, replicates = config.train, config.train.replicates
    photos = reads = 0
    for job in jobs:
        count, tested = len(job.train), sum(len(records) for records in job.test.values())
        need = features.nbytes(shapes, count, dtype=train.cache_dtype)
        if cache_place(train.feature_cache, need) == "off":
            epoch = math.ceil(count / train.batch_size)
            steps = sum(phase.steps or train.epochs * epoch for phase in phases)
            reads += replicates * steps * train.batch_size
        else:
            reads += count * (replicates if config.method.random_weights else 1)
        reads += replicates * tested
        photos += count + tested
    return reads / photos
