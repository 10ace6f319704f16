"""What an audit measures, and the rows that it gives."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from jaxad.metrics.bootstrap import interval

OURS = "jaxad"
ONE_KIND = "needs good and defective photos"


@dataclasses.dataclass(frozen=True)
class Photos:
    """What a detector gave the test photos, and what is known of them."""

    maps: np.ndarray
    """`(N, H, W)` float32 raw scores; may be memory-mapped, photos are read one by one."""
    masks: np.ndarray
    """`(N, H, W)` bool, True where defective."""
    labels: np.ndarray
    """`(N,)` int, 0 good, 1 defective."""
    scores: np.ndarray
    """`(N,)` float, the method's own image scores."""
    known: np.ndarray
    """`(N,)` bool, whether the mask is the truth."""
    halves: np.ndarray | None = None
    """`(N, H, W)` bool, masks binarised above one half after bilinear resizing."""


class Line(NamedTuple):
    """A threshold that was set without defects."""

    called: np.ndarray
    """`(N,)` bool, which photos are called anomalous by it."""
    told: str
    """How it was set."""


class Table:
    """Rows as they come, and the resamples of those that have a key in results.json."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.resampled: dict[str, np.ndarray] = {}

    def add(
        self,
        metric: str,
        convention: str,
        used_by: str,
        value: float | None,
        drawn: np.ndarray | None = None,
        *,
        key: str | None = None,
        why: str = "",
    ) -> None:
        """Add a row; `drawn` are its resamples, `why` says what an undefined value lacks."""
        if value is not None and not np.isfinite(value):
            value = None
        low, high = (None, None) if value is None else interval(drawn)
        if key and low is not None and drawn is not None:
            self.resampled[key] = drawn
        self.rows.append(
            {
                "metric": metric,
                "convention": convention,
                "used_by": used_by,
                "value": None if value is None else float(value),
                "low": low,
                "high": high,
                "key": key,
                "why": why if value is None else "",
            }
        )
