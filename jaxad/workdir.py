"""A trained detector back from its work directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxad import checkpoint
from jaxad.build import build_backbones, build_method
from jaxad.config import load_config
from jaxad.core import InputError, Variables
from jaxad.detector import Detector


def restore(
    workdir: Path, name: str, config: Any, hashes: dict[str, str], axis_name: str | None = None
) -> tuple[Detector, Variables]:
    """Rebuild one trained detector of a work directory.

    Raises:
        InputError: The weights are missing or not those it was trained with, or the checkpoint is
            missing or damaged.
    """
    backbones = build_backbones(config)
    for role, trained_with in hashes.items():
        if backbones.sha256[role] != trained_with:
            raise InputError(
                f"the {role} weights ({config.method[role]}) are not those that {workdir} was "
                f"trained with (SHA-256 {trained_with[:12]}…): bring those back, or train again"
            )
    method, _ = build_method(config, backbones.networks, axis_name=axis_name)
    detector = Detector(backbones.networks, method)
    height, width = config.data.image_size
    image = jax.ShapeDtypeStruct((1, height, width, 3), np.uint8)
    template = jax.eval_shape(
        lambda v, x: method.init(jax.random.key(0), detector.features({"backbones": v}, x)),
        backbones.variables,
        image,
    )
    trained = checkpoint.restore(workdir / "checkpoints" / name, template)
    return detector, {"backbones": backbones.variables, "method": trained}


def load(workdir: str | Path, detector: str | None = None) -> tuple[Detector, Variables, Any]:
    """Load a trained detector: `(detector, variables, config)`; `detector.score` is jit-able.

    Args:
        workdir: What `jaxad train` wrote.
        detector: Name of a category (or "all"); may be left out where there is only one.

    Raises:
        InputError: Not a work directory, no such detector, other weights, or a damaged checkpoint.
    """
    workdir = Path(workdir)
    config, hashes = load_config(workdir / "config.json")
    folder = workdir / "checkpoints"
    names = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    if detector is None and len(names) == 1:
        detector = names[0]
    if detector not in names:
        raise InputError(f"{workdir} has detectors {names}: name one of them, not {detector!r}")
    return *restore(workdir, detector, config, hashes), config
