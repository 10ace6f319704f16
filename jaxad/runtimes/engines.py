"""OpenVINO and ONNX Runtime on this machine's CPU: a graph compiled for requests side by side.

Both get graphs of one photo. Several photos are several requests at once, each on a core or more of
its own: faster than all cores on one batch, whose maps fit no cache (docs/runtimes.md).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxad.errors import InputError
from jaxad.runtimes.packages import needed
from jaxad.runtimes.signal_stack import compiled_for_cpu

DTYPES = {"openvino": ("float32", "bfloat16", "int8"), "onnxruntime": ("float32",)}
"""In which each run time can compute."""
RUNTIMES = ("xla", *DTYPES)
Photos = np.ndarray[Any, np.dtype[np.uint8]]
Request = Callable[[Photos], tuple[np.ndarray[Any, Any], ...]]
"""Maps `(1, H, W, 3)` uint8 to a map `(1, H, W)` and an image score `(1,)`, and where the graph has
it the subclass `(1,)`."""


def check_runtime(name: str) -> None:
    """See that a run time is there, before hours of training.

    Raises:
        InputError: There is none of this name, or a package is missing.
    """
    if name not in RUNTIMES:
        raise InputError(f"there is no run time {name!r}: give one of {', '.join(RUNTIMES)}")
    for module in () if name == "xla" else ("onnx", name):
        needed(module)


class Engine(NamedTuple):
    """A compiled graph."""

    request: Callable[[], Request]
    """Makes a request, which one thread uses at a time."""
    requests: int
    """How many side by side keep all cores busy."""


def openvino(model: bytes, *, requests: int, dtype: str, photos: Photos | None = None) -> Engine:
    """Compile by OpenVINO.

    Args:
        model: An ONNX model of one photo.
        requests: How many may come at once.
        dtype: "float32"; "bfloat16", of what follows a network's input up to its last product; or
            "int8", of convolutions.
        photos: `(n, H, W, 3)` uint8 that the ranges of int8 are taken from.

    Raises:
        InputError: A package is missing, the processor has no bfloat16, or int8 has no photos.
    """
    ov = needed("openvino")
    core = ov.Core()
    read = core.read_model(model)
    if dtype == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise InputError("this processor has no bfloat16 for OpenVINO: use float32")
    if dtype == "int8":
        read = quantised(read, photos)
    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == "bfloat16" else "f32",
        "PERFORMANCE_HINT": "LATENCY" if requests == 1 else "THROUGHPUT",
        "PERFORMANCE_HINT_NUM_REQUESTS": str(requests),
    }
    compiled = compiled_for_cpu(core, read, options)

    def request() -> Request:
        own = compiled.create_infer_request()

        def run(images: Photos) -> Any:
            found = own.infer({0: images})
            return tuple(np.array(x) for x in found.values())  # the next call overwrites them

        return run

    return Engine(request, int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")))


def quantised(model: Any, photos: Photos | None) -> Any:
    """An OpenVINO model whose convolutions are int8 (NNCF, after training).

    All else stays float32: sums of a small number, such as a normalisation's epsilon, would lose
    it, and a vector of zeros would become infinite. Weights take half of their range: without
    VNNI, pairs of products are added in 16 bits, which saturate.

    Raises:
        InputError: NNCF is missing, or there are no photos.
    """
    nncf = needed("nncf")
    if photos is None or not len(photos):
        raise InputError("int8 takes its ranges from photos of normal parts: give some")
    nncf.set_log_level(logging.ERROR)  # else a line for every operation, on standard output
    exact = {operation.get_type_name() for operation in model.get_ordered_ops()} - CONVOLUTIONS
    found = nncf.quantize(
        model,
        nncf.Dataset(list(photos), lambda photo: {0: photo[None]}),
        subset_size=len(photos),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(types=sorted(exact), validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.ENABLE
        ),
    )
    core, scores = needed("openvino").Core(), []
    for each in (model, found):
        compiled = compiled_for_cpu(core, each, {"INFERENCE_PRECISION_HINT": "f32"})
        scores.append([float(compiled({0: photo[None]})[1][0]) for photo in photos[:COMPARED]])
    with np.errstate(invalid="ignore", divide="ignore"):  # scores that are all the same
        matrix: Any = np.corrcoef(scores)
    alike = float(matrix[0, 1]) if len(photos) > 1 else 1.0
    if not alike >= ALIKE:  # nor if it is no number
        raise InputError(
            "in int8 this detector's image scores are others than in float32 (correlation "
            f"{alike:.2f} over the photos, needed: {ALIKE}): use float32 or bfloat16"
        )
    return found


COMPARED, ALIKE = 16, 0.5
"""Photos of which image scores in int8 are compared, and the least correlation with those in
float32: detectors that lose little have .95 and more (docs/runtimes.md)."""
CONVOLUTIONS = frozenset({"Convolution", "GroupConvolution"})
"""Operations of OpenVINO that int8 is for."""


def onnxruntime(model: bytes, *, requests: int, dtype: str) -> Engine:
    """Compile by ONNX Runtime, in float32.

    Args:
        model: An ONNX model of one photo.
        requests: How many may come at once.
        dtype: "float32".

    Raises:
        InputError: The package is missing.
    """
    del dtype
    ort = needed("onnxruntime")
    cores = os.cpu_count() or 1
    side_by_side = min(requests, cores)
    options = ort.SessionOptions()
    options.intra_op_num_threads = cores // side_by_side
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images: Photos) -> Any:
        return tuple(session.run(None, {name: images}))

    return Engine(lambda: run, side_by_side)
