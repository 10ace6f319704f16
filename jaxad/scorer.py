"""Scoring at full speed: variables prepared once, one program compiled ahead of time.

The program is `Detector.score` itself. What makes it fast stands where it belongs: how operations
are put to XLA in `jaxad.ops` (`convolve`, `chunk`), what can be computed before the first image in
`Detector.prepare`, how XLA compiles here. benchmarks/NOTES.md says what was tried and what it gave.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxad.core import Scores, Variables
from jaxad.detector import Detector

_FUSE = "LIBRARY_FUSION_TYPE_"
CPU_OPTIONS: dict[str, str | bool] = {
    "xla_cpu_experimental_ynn_fusion_type": ",".join(
        _FUSE + kind for kind in ("INDIVIDUAL_DOT", "INDIVIDUAL_CONVOLUTION", "ELTWISE")
    )
}
"""XLA's defaults and bias, ReLU and sums in one pass with the products before them; for float32
alone: in bfloat16 jax 0.12.0.1 then computes NaN."""


class Scorer(NamedTuple):
    """A detector compiled for batches of one shape on one device."""

    score: Callable[[Any], Scores]
    """Maps `(B, H, W, 3)` uint8, on the host or on the device, to scores; does not wait."""
    compile_seconds: float


def make_scorer(
    detector: Detector,
    variables: Variables,
    *,
    batch_size: int,
    size: tuple[int, int],
    dtype: str = "float32",
) -> Scorer:
    """Compile `detector.score` for `batch_size` images of `size = (H, W)`.

    Args:
        detector: What scores.
        variables: Its variables, as trained.
        batch_size: B.
        size: (H, W).
        dtype: Of weights and features, "float32" or "bfloat16"; score maths are float32.
    """
    start = time.monotonic()
    fuse = jax.default_backend() == "cpu" and dtype == "float32"
    images = jax.ShapeDtypeStruct((batch_size, *size, 3), jnp.uint8)
    prepared = detector.prepare(variables, dtype=dtype)
    compiled = (
        jax.jit(detector.score)
        .lower(prepared, images)
        .compile(compiler_options=dict(CPU_OPTIONS) if fuse else None)
    )
    seconds = time.monotonic() - start
    return Scorer(lambda images: compiled(prepared, jnp.asarray(images)), seconds)


def stream(scorer: Scorer, batches: Iterable[Any]) -> Iterator[Scores]:
    """Score batches of images from the host; yields scores on the host.

    The next batch is copied and started before the last one is waited for.
    """
    for _, started in ahead(batches, lambda images: scorer.score(jax.device_put(images))):
        yield jax.device_get(started)


def ahead(items: Iterable[Any], start: Callable[[Any], Any]) -> Iterator[tuple[Any, Any]]:
    """Yield each item with what `start` made of it, after starting the next one."""
    waiting: tuple[Any, Any] | None = None
    for item in items:
        started = item, start(item)
        if waiting is not None:
            yield waiting
        waiting = started
    if waiting is not None:
        yield waiting
