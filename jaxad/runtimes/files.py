"""A detector as files that other run times read: ONNX, and OpenVINO's own.

The graph in them takes `images`, `(B, H, W, 3)` uint8, and gives `map`, `(B, H, W)`, and `image`,
`(B,)`, both float32: what `Detector.score` gives, preprocessing included. Of a method that takes
images for one of several subclasses it gives `subclass`, `(B,)` int32, too (`Detector.routed`).
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import jaxad
from jaxad.core import Variables
from jaxad.errors import InputError
from jaxad.files import write_bytes
from jaxad.runtimes.convert import INPUT, OUTPUTS, convert
from jaxad.runtimes.packages import needed
from jaxad.runtimes.signal_stack import compiled_for_cpu

if TYPE_CHECKING:
    from jaxad.detector import Detector

TOLERANCE = 1e-4
"""How far scores of the file may be off, as a share of the range of the maps."""
MOST_BYTES = 2**31 - 1
"""Of an ONNX file, which is one protocol buffer."""


def write_onnx(
    detector: Detector,
    variables: Variables,
    path: Path,
    *,
    batch_size: int = 1,
    size: tuple[int, int],
    said: Mapping[str, str] | None = None,
) -> None:
    """Write `detector.score` as an ONNX file, once ONNX Runtime gives our scores by it.

    Args:
        detector: What scores.
        variables: Its variables, as trained.
        path: The file.
        batch_size: B, which the graph keeps to.
        size: (H, W), likewise.
        said: What the file says of itself beside jaxad's version (`metadata_props`).

    Raises:
        InputError: A package is missing, the graph can not be made or gives other scores, or the
            file can not be written: then none is left.
    """
    ort = needed("onnxruntime")
    model, score = _converted(detector, variables, batch_size, size, said)
    data = model.SerializeToString()
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    _compare(lambda images: session.run(None, {INPUT: images}), score, batch_size, size)
    write_bytes(path, data)


def write_openvino(
    detector: Detector,
    variables: Variables,
    path: Path,
    *,
    batch_size: int = 1,
    size: tuple[int, int],
    said: Mapping[str, str] | None = None,
) -> None:
    """Write `detector.score` as OpenVINO's `NAME.xml` and, beside it, `NAME.bin`, float32.

    As `write_onnx`, compared by OpenVINO.

    Raises:
        InputError: As `write_onnx`, or `path` does not end in .xml.
    """
    if path.suffix != ".xml":
        raise InputError(f"{path}: give OpenVINO's file a name that ends in .xml")
    ov = needed("openvino")
    model, score = _converted(detector, variables, batch_size, size, said)
    core = ov.Core()
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        read = core.read_model(model.SerializeToString())
        for key, value in _said(said).items():
            read.set_rt_info(value, ["jaxad", key])
        ov.save_model(read, draft, compress_to_fp16=False)
        compiled = compiled_for_cpu(core, draft, {"INFERENCE_PRECISION_HINT": "f32"})

        def theirs(images: Any) -> list[Any]:
            return list(compiled({INPUT: images}).values())

        _compare(theirs, score, batch_size, size)
        weights = draft.with_suffix(".bin").read_bytes()
        graph = draft.read_bytes()
    write_bytes(path.with_suffix(".bin"), weights)
    write_bytes(path, graph)  # last: without it the weights are nothing


def _said(said: Mapping[str, str] | None) -> dict[str, str]:
    return {"jaxad": jaxad.__version__, **(said or {})}


def _converted(
    detector: Detector,
    variables: Variables,
    batch_size: int,
    size: tuple[int, int],
    said: Mapping[str, str] | None,
) -> tuple[Any, Callable[[Any], Any]]:
    """The ONNX model, and what it has to compute."""
    folded = jax.jit(detector.fold)(variables)
    whole = detector.score if detector.method.route is None else detector.routed
    score = functools.partial(whole, folded)
    model = convert(score, batch_size=batch_size, size=size)
    for key, value in _said(said).items():
        model.metadata_props.add(key=key, value=value)
    if model.ByteSize() > MOST_BYTES:
        raise InputError(f"the graph has {model.ByteSize()} bytes: ONNX has files of up to 2 GB")
    return model, score


def _compare(
    theirs: Callable[[Any], Any],
    ours: Callable[[Any], Any],
    batch_size: int,
    size: tuple[int, int],
) -> None:
    """See that both score photos of noise alike."""
    shape = (batch_size, *size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with jax.default_matmul_precision("highest"):
        want = jax.device_get(jax.jit(ours)(images))
    span = float(np.ptp(want.map)) or 1.0
    for name, found, wanted in zip(OUTPUTS, theirs(images), want):
        own = span if np.asarray(found).dtype == np.float32 else 1.0  # or it is the subclass
        off = float(np.abs(np.asarray(found) - wanted).max()) / own
        if not off <= TOLERANCE:  # nor if it is no number
            raise InputError(
                f"the graph's output {name!r} is off by {off:.1e} of the range of the maps, more "
                f"than {TOLERANCE:.0e}: nothing is written; keep to the run time xla"
            )
