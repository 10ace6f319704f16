"""jaxad: industrial visual anomaly detection in pure-functional JAX/Flax."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxad.backbones.weights import load_backbone
    from jaxad.calibration import calibrate
    from jaxad.config import default_config
    from jaxad.core import Backbone, Features, InputError, Method, Scores
    from jaxad.detector import Detector
    from jaxad.metrics.audit import audit
    from jaxad.runs.arrays import fit
    from jaxad.runs.evaluate import evaluate
    from jaxad.runs.train import train
    from jaxad.runs.workdir import load
    from jaxad.scorer import make_scorer, stream

__version__ = "0.1.0"

_HOME = {
    "Backbone": "jaxad.core",
    "Detector": "jaxad.detector",
    "Features": "jaxad.core",
    "InputError": "jaxad.core",
    "Method": "jaxad.core",
    "Scores": "jaxad.core",
    "audit": "jaxad.metrics.audit",
    "calibrate": "jaxad.calibration",
    "default_config": "jaxad.config",
    "evaluate": "jaxad.runs.evaluate",
    "fit": "jaxad.runs.arrays",
    "load": "jaxad.runs.workdir",
    "load_backbone": "jaxad.backbones.weights",
    "make_scorer": "jaxad.scorer",
    "stream": "jaxad.scorer",
    "train": "jaxad.runs.train",
}
"""Where the public names live. They are imported when asked for: pure functions need no file
formats, and no configuration."""

__all__ = [
    "Backbone",
    "Detector",
    "Features",
    "InputError",
    "Method",
    "Scores",
    "__version__",
    "audit",
    "calibrate",
    "default_config",
    "evaluate",
    "fit",
    "load",
    "load_backbone",
    "make_scorer",
    "stream",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for."""
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
