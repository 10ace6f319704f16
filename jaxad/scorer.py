"""The one way from uint8 photos to scores: one program, compiled once, at full speed.

The program is `Detector.score` itself. What makes it fast stands where it belongs: how operations
are put to XLA in `jaxad.ops` (`convolve`, `chunk`), what can be computed before the first image in
`Detector.fold`, how XLA compiles here. benchmarks/NOTES.md says what was tried and what it gave.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.compiling import CPU_OPTIONS, fit_as_constants, has_depthwise
from jaxad.core import InputError, Routed, Scores, Variables
from jaxad.detector import Detector
from jaxad.parallel import DataParallel
from jaxad.runtimes.engines import check_runtime
from jaxad.runtimes.programs import program

COMPILE_SECONDS = 5.0
"""What compiling a detector's scoring takes on a CPU, about."""
CONSTANTS_SAVE = 0.1
"""Share of the time that a CPU saves where weights are constants (5 to 19 %, NOTES.md)."""
CPU_GFLOP_PER_SECOND = 100.0
"""Of a CPU, about."""


class Scorer(NamedTuple):
    """A detector compiled for batches of one shape."""

    score: Callable[[Any], Any]
    """Maps `(k, H, W, 3)` uint8, 1 <= k <= B, on the host or on the device, to the `Scores` (or
    `Routed`) of these k images; does not wait."""
    compile_seconds: float
    batch_size: int
    size: tuple[int, int]
    renew: Callable[[Variables], Scorer]
    """Gives the scorer of other variables, such as the next category's: the same program, or one
    compiled anew where weights are constants of it, or of other shapes."""


def make_scorer(
    detector: Detector,
    variables: Variables,
    *,
    batch_size: int,
    size: tuple[int, int],
    dtype: str = "float32",
    constants: bool | None = None,
    parallel: DataParallel | None = None,
    runtime: str = "xla",
    photos: Any = None,
    routed: bool = False,
) -> Scorer:
    """Compile `detector.score` for up to `batch_size` images of `size = (H, W)`.

    Args:
        detector: What scores.
        variables: Its variables, as trained.
        batch_size: B.
        size: (H, W).
        dtype: Of weights and features, "float32" or "bfloat16"; score maths are float32. OpenVINO
            has "int8" too, and chooses itself what "bfloat16" is (docs/runtimes.md).
        constants: Whether the program holds the weights: faster on a CPU, but a program and an
            entry of the compilation cache for every detector, as large as these. None: on a CPU.
            Never beyond `compiling.MOST_CONSTANTS`.
        parallel: Splits batches over its devices; None: one device.
        runtime: "xla", or "openvino" or "onnxruntime", which take all cores of this machine's CPU,
            hold the weights, and know nothing of JAX's devices.
        photos: `(n, H, W, 3)` uint8 of normal parts, which the ranges of "int8" are taken from.
        routed: Whether `Detector.routed` is compiled instead, if the method has a `route`.

    Raises:
        InputError: The devices can not share a batch, or the run time is not there.
    """
    check_runtime(runtime)
    start = time.monotonic()
    fold = jax.jit(detector.fold, static_argnames="dtype")

    wanted = detector.routed if routed and detector.method.route is not None else detector.score

    def score_images(folded: Variables, images: Any) -> Scores | Routed:  # the program's name
        return wanted(folded, images)

    elsewhere = runtime != "xla"
    several = parallel is not None and parallel.device_count > 1
    on_cpu = jax.default_backend() == "cpu"
    kept = "float32" if elsewhere else dtype  # other run times round by themselves
    folded = fold(variables, dtype=kept)
    options = None
    if on_cpu and not several and dtype == "float32" and not has_depthwise(folded):
        options = dict(CPU_OPTIONS)
    if elsewhere:
        make = _elsewhere(
            score_images, runtime, batch_size=batch_size, size=size, dtype=dtype, photos=photos
        )
    elif several:
        assert parallel is not None
        if batch_size % parallel.device_count:
            raise InputError(
                f"score.batch_size is {batch_size}, which {parallel.device_count} devices can not "
                "share: use a multiple"
            )
        make = _split(score_images, folded, batch_size, size, parallel)
    elif (on_cpu if constants is None else constants) and fit_as_constants(folded):
        make = _constant(score_images, batch_size, size, options)
    else:
        make = _with_arguments(score_images, folded, batch_size, size, options)

    def scorer(folded: Variables, start: float) -> Scorer:
        run = make(folded)

        def renew(variables: Variables) -> Scorer:
            begin = time.monotonic()
            return scorer(fold(variables, dtype=kept), begin)

        def score(images: Any) -> Scores | Routed:
            count = _check(images, batch_size, size)
            if count == batch_size or elsewhere:
                return run(images)
            xp = jnp if isinstance(images, jax.Array) else np
            padded = xp.pad(images, [(0, batch_size - count), (0, 0), (0, 0), (0, 0)])
            found = run(padded)
            return type(found)(*(value[:count] for value in found))

        return Scorer(score, time.monotonic() - start, batch_size, size, renew)

    return scorer(folded, start)


def constants_pay(*, gflop: float | None, images: int, detectors: int) -> bool:
    """Whether a CPU scores a run sooner with weights as constants, and a program a detector.

    Args:
        gflop: Work of an image, see `Detector.cost`; None: unknown.
        images: To score with each detector, on average.
        detectors: In the run.
    """
    if detectors <= 1 or gflop is None:
        return detectors <= 1
    saved = CONSTANTS_SAVE * images * gflop / CPU_GFLOP_PER_SECOND
    return saved > COMPILE_SECONDS


def _check(images: Any, batch_size: int, size: tuple[int, int]) -> int:
    shape = tuple(np.shape(images))
    if len(shape) != 4 or shape[1:] != (*size, 3) or not 1 <= shape[0] <= batch_size:
        height, width = size
        raise InputError(
            f"images are of shape {shape}: this scorer takes 1 to {batch_size} images of "
            f"({height}, {width}, 3)"
        )
    if (dtype := getattr(images, "dtype", None)) != np.uint8:
        told = type(images).__name__ if dtype is None else dtype
        raise InputError(f"images are {told}: give one array of uint8 pixels, 0 to 255")
    return int(shape[0])


Score = Callable[..., Scores | Routed]
Program = Callable[[Any], Scores | Routed]


def _shape(batch_size: int, size: tuple[int, int]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((batch_size, *size, 3), jnp.uint8)


def _constant(
    score_images: Score, batch_size: int, size: tuple[int, int], options: Any
) -> Callable[[Variables], Program]:
    """Weights as constants: brought into the products' own layout once, not in every call."""

    def make(folded: Variables) -> Program:
        lowered = jax.jit(functools.partial(score_images, folded)).lower(_shape(batch_size, size))
        program = lowered.compile(compiler_options=options)
        return lambda images: program(jnp.asarray(images))

    return make


def _with_arguments(
    score_images: Score,
    like: Variables,
    batch_size: int,
    size: tuple[int, int],
    options: Any,
) -> Callable[[Variables], Program]:
    """Weights as arguments: one program for all variables of these shapes."""

    def compiled(like: Variables) -> Any:
        lowered = jax.jit(score_images).lower(like, _shape(batch_size, size))
        return lowered.compile(compiler_options=options)

    program, shapes = compiled(like), jax.tree.map(jnp.shape, like)

    def make(folded: Variables) -> Program:
        alike = jax.tree.map(jnp.shape, folded) == shapes
        own = program if alike else compiled(folded)  # a method's arrays may grow
        return lambda images: own(folded, jnp.asarray(images))

    return make


def _split(
    score_images: Score,
    like: Variables,
    batch_size: int,
    size: tuple[int, int],
    parallel: DataParallel,
) -> Callable[[Variables], Program]:
    """A batch over several devices."""
    mapped = parallel.map(score_images)
    height, width = size

    def make(folded: Variables) -> Program:
        everywhere = parallel.replicate(folded)

        def program(images: Any) -> Scores | Routed:
            found = mapped(everywhere, parallel.shard(np.asarray(images)))
            # pmap has an axis of devices before that of images, jit has not.
            maps, *rest = found
            parts = maps.reshape(batch_size, height, width), *(x.reshape(-1) for x in rest)
            return type(found)(*parts)

        return program

    jax.block_until_ready(make(like)(np.zeros((batch_size, *size, 3), np.uint8)))  # compiles
    return make


def _elsewhere(score_images: Score, runtime: str, **given: Any) -> Callable[[Variables], Program]:
    """Another run time, whose program takes any number of images."""

    def make(folded: Variables) -> Program:
        return program(functools.partial(score_images, folded), runtime=runtime, **given)

    return make


def stream(scorer: Scorer, batches: Iterable[Any]) -> Iterator[Scores]:
    """Score batches of up to B images from the host; yields scores on the host.

    The next batch is copied and started before the last one is waited for.
    """
    for _, started in ahead(batches, scorer.score):
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
