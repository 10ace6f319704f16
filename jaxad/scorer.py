"""Scoring at full speed: variables prepared once, one program compiled ahead of time.

The program is `Detector.score` itself. What makes it fast stands where it belongs: how operations
are put to XLA in `jaxad.ops` (`convolve`, `chunk`), what can be computed before the first image in
`Detector.prepare`, how XLA compiles here. benchmarks/NOTES.md says what was tried and what it gave.
"""

from __future__ import annotations

import functools
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
"""XLA's defaults and bias, ReLU and sums in one pass with the products before them. Not in
bfloat16, where jax 0.12.0.1 then computes NaN, and not for networks with depthwise convolutions,
whose sums of shifted products then take twice as long (benchmarks/NOTES.md)."""


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

    On a CPU the program holds the weights, so that it and a compilation cache grow by their size.

    Args:
        detector: What scores.
        variables: Its variables, as trained.
        batch_size: B.
        size: (H, W).
        dtype: Of weights and features, "float32" or "bfloat16"; score maths are float32.
    """
    start = time.monotonic()
    shape = jax.ShapeDtypeStruct((batch_size, *size, 3), jnp.uint8)
    prepared = detector.prepare(variables, dtype=dtype)
    score: Callable[[Any], Scores]
    if jax.default_backend() == "cpu":
        fuse = dtype == "float32" and not has_depthwise(prepared)
        # Weights as constants: brought into the products' own layout once, not in every call.
        lowered = jax.jit(functools.partial(detector.score, prepared)).lower(shape)
        score = lowered.compile(compiler_options=dict(CPU_OPTIONS) if fuse else None)
    else:
        compiled = jax.jit(detector.score).lower(prepared, shape).compile()
        score = functools.partial(compiled, prepared)
    seconds = time.monotonic() - start
    return Scorer(lambda images: score(jnp.asarray(images)), seconds)


def has_depthwise(variables: Variables) -> bool:
    """Whether a kernel `(kh, kw, 1, C)` is among them, larger than 1 x 1."""
    return any(
        leaf.ndim == 4 and leaf.shape[2] == 1 and leaf.shape[0] * leaf.shape[1] > 1
        for leaf in jax.tree.leaves(variables)
    )


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
