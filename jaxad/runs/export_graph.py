"""A trained detector as a file of another run time: ONNX, or OpenVINO's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxad.core import InputError
from jaxad.runs.calibrations import calibration_of
from jaxad.runs.dataset import reads_upright
from jaxad.runs.export import subject_of
from jaxad.runtimes.files import write_onnx, write_openvino

WRITERS: dict[str, tuple[str, Callable[..., None]]] = {
    "onnx": (".onnx", write_onnx),
    "openvino": (".xml", write_openvino),
}
"""Ending of the file, and what writes it."""


def export_graph(
    workdir: Path,
    out: Path,
    to: str,
    *,
    batch_size: int = 1,
    detector: str | None = None,
    changes: Sequence[str] = (),
    overwrite: bool = False,
) -> list[Path]:
    """Write a detector's graph, once the other run time gives our scores by it.

    What surrounds the graph stands in the file's metadata: detector, resize filter, whether photos
    are turned upright, and the calibration as JSON, if there is one.

    Args:
        workdir: What `jaxad train` wrote; only read.
        out: The file.
        to: A name in `WRITERS`.
        batch_size: Photos that the graph takes.
        detector: Name of a category (or "all"); may be left out where there is only one.
        changes: As `export.export`.
        overwrite: Whether to replace files of these names.

    Returns:
        The files that were written.

    Raises:
        InputError: Whatever a user can mend; nothing is written then.
    """
    suffix, write = WRITERS[to]
    if out.suffix != suffix:
        raise InputError(f"{out}: give a file for {to} a name that ends in {suffix}")
    if batch_size < 1:
        raise InputError(f"--batch-size is {batch_size}: it must be 1 or more")
    files = [out] if to == "onnx" else [out, out.with_suffix(".bin")]
    for path in files:
        if (path.is_symlink() or path.exists()) and not overwrite:
            raise InputError(f"{path} is there already: name another file, or give --overwrite")
    if not out.parent.is_dir():
        raise InputError(f"{out.parent} is no folder: make it first")
    own = subject_of(workdir, detector, changes)
    said = {
        "detector": own.name,
        "method": own.config.method.name,
        "categories": json.dumps(own.categories),
        "resample": own.reading.resample,
        "upright": json.dumps(reads_upright(own.config)),
    }
    if own.subclasses:
        said["subclasses"] = json.dumps(own.subclasses)
    calibration = calibration_of(workdir, own.name)
    if calibration is not None:
        said["calibration"] = json.dumps(calibration.to_json(photos=False))
    write(
        own.detector,
        own.variables,
        out,
        batch_size=batch_size,
        size=own.reading.size,
        said=said,
    )
    return files
