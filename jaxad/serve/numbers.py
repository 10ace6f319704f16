"""What `/metrics` tells, in the form of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from jaxad.runs.models import Judge
from jaxad.runs.predict import new_drift
from jaxad.runs.shards import Row

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PHOTOS = (1, 2, 4, 8, 16, 32, 64, 128)


class Numbers:
    """Of one server; called in its event loop alone."""

    def __init__(self, judge: Judge) -> None:
        """Begin at nothing."""
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "jaxad_requests", "Requests answered", ("path", "code"), registry=registry
        )
        self._seconds = Histogram(
            "jaxad_judge_seconds",
            "From a photo's headers to its answer",
            buckets=_SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "jaxad_batch_photos", "Photos scored together", buckets=_PHOTOS, registry=registry
        )
        self._photos = Counter("jaxad_photos", "Photos judged", ("decision",), registry=registry)
        for decision in ("good", "anomalous"):
            self._photos.labels(decision)
        self._queue = Gauge(
            "jaxad_queue_photos", "Photos admitted and not yet answered", registry=registry
        )
        self._drift = new_drift(judge)
        if self._drift is not None:
            latest = self._drift.latest
            for name, told, of in (
                ("drift_p", "Kolmogorov-Smirnov test of the latest photos passed", "p"),
                ("passed_p_value_mean", "Mean p-value of the latest photos passed", "mean_p"),
                ("passed_p_value_expected", "What it is if nothing has changed", "expected"),
            ):
                gauge = Gauge(f"jaxad_{name}", told, registry=registry)
                gauge.set_function(lambda of=of: getattr(latest(), of))  # type: ignore[misc]

    def request(self, path: str, code: int, seconds: float) -> None:
        """Count a request; `path` is one of few."""
        self._requests.labels(path, code).inc()
        if path == "/v1/judge" and code == 200:
            self._seconds.observe(seconds)

    def batch(self, photos: int) -> None:
        """Count photos that are scored together."""
        self._batches.observe(photos)

    def photo(self, row: Row) -> None:
        """Count a photo that is judged."""
        self._photos.labels(row.decision).inc()
        if self._drift is not None and row.decision == "good":
            self._drift.add(np.asarray([row.score], np.float32), np.asarray([row.p_value]))

    def queue(self, length: Callable[[], float]) -> None:
        """Say who knows how many photos wait."""
        self._queue.set_function(length)

    def text(self) -> bytes:
        """All of it, in the text format 0.0.4."""
        return generate_latest(self._registry)
