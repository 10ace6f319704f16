"""jaxad: industrial visual anomaly detection in pure-functional JAX/Flax."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import `load` and `load_backbone` when asked for: the pure functions need no file formats."""
    if name == "load":
        from jaxad.runs.workdir import load

        return load
    if name == "load_backbone":
        from jaxad.backbones.weights import load_backbone

        return load_backbone
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
