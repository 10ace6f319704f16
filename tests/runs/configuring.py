"""Configurations of the tiny recipe, for tests and for the files that they write."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxad.config import default_config
from jaxad.errors import Stopped


def configured(root: Path, recipe: str = "tiny", **changes: Any) -> Any:
    """A recipe of `outside` on a data set; `a__b=v` changes a key."""
    config = default_config(f"outside.{recipe}")
    config.data.root, config.data.image_size = str(root), (24, 32)
    config.data.prepared = "off"
    config.data.calibration = 0.0
    config.train.epochs, config.train.batch_size, config.score.batch_size = 1, 4, 4
    config.report.examples = 1
    for name, value in changes.items():
        *sections, leaf = name.split("__")
        place = config
        for section in sections:
            place = place[section]
        place[leaf] = value
    return config


def stopping_after(calls: int) -> Callable[[], None]:
    """A check that ends a job as a signal does, when it was called so many times before."""
    asked = iter(range(10**9))

    def check() -> None:
        if next(asked) >= calls:
            raise Stopped(signal.SIGTERM)

    return check
