"""A trained detector back from its work directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from jaxad import checkpoint
from jaxad.build import build_backbones, build_method
from jaxad.config import load_config
from jaxad.core import InputError, Variables
from jaxad.detector import Detector
from jaxad.plan import Backbones


def trained_backbones(workdir: Path, config: Any, hashes: dict[str, str]) -> Backbones:
    """Load the frozen networks that a work directory was trained with.

    Raises:
        InputError: Weights are missing, or others than those.
    """
    backbones = build_backbones(config)
    for role, trained_with in hashes.items():
        if backbones.sha256[role] != trained_with:
            raise InputError(
                f"the {role} weights ({config.method[role]}) are not those that {workdir} was "
                f"trained with (SHA-256 {trained_with[:12]}…): bring those back, or train again"
            )
    return backbones


def restore(
    workdir: Path, name: str, config: Any, backbones: Backbones, axis_name: str | None = None
) -> tuple[Detector, Variables]:
    """Rebuild one trained detector of a work directory.

    Raises:
        InputError: The checkpoint is missing or damaged.
    """
    method, _ = build_method(config, backbones.networks, axis_name=axis_name)
    detector = Detector(backbones.networks, method)
    size = tuple(config.data.image_size)
    template = jax.eval_shape(
        lambda rng, v: detector.init(rng, v, size=size)["method"],
        jax.random.key(0),
        backbones.variables,
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
    backbones = trained_backbones(workdir, config, hashes)
    return *restore(workdir, detector, config, backbones), config
