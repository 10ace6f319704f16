"""Packages that are no dependencies of jaxad."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any

from jaxad.errors import InputError

EXTRAS = {"onnx": "onnx", "onnxruntime": "onnx", "openvino": "openvino", "nncf": "int8"}
"""By module: the extra of jaxad that brings it."""
TELEMETRY = "openvino_telemetry"


def needed(module: str) -> Any:
    """Import a module of another package.

    Raises:
        InputError: It is not installed, or does not run here.
    """
    try:
        with _quiet():
            return importlib.import_module(module)
    except Exception as error:  # a package may fail in any way on what it does not know
        raise InputError(
            f"{module} can not be imported ({error}): pip install 'jaxad[{EXTRAS[module]}]'"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """OpenVINO, when it is imported, forks (which JAX's threads do not stand) to tell Google of it.

    It does without where its telemetry can not be imported.
    """
    modules: dict[str, Any] = sys.modules
    before = modules.get(TELEMETRY)
    modules[TELEMETRY] = None  # what Python refuses to import
    try:
        yield
    finally:
        del modules[TELEMETRY]
        if before is not None:
            modules[TELEMETRY] = before
