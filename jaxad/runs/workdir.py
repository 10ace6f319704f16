"""A trained detector back from its work directory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxad.runs import checkpoint
from jaxad.recipes.build import build_backbones, build_method
from jaxad.config import load_config, write_json
from jaxad.core import InputError, Variables
from jaxad.detector import Detector
from jaxad.recipes.recipe import Backbones

SUBCLASSES = "subclasses.json"
"""In a work directory, for methods that learn subclasses: detector -> their names, in order."""


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


def save_subclasses(workdir: Path, detector: str, names: Sequence[str]) -> None:
    """Add the subclasses that a detector has learnt by themselves to `subclasses.json`."""
    write_json(workdir / SUBCLASSES, {**_subclasses(workdir), detector: list(names)})


def _subclasses(workdir: Path) -> dict[str, list[str]]:
    path = workdir / SUBCLASSES
    try:
        found: dict[str, list[str]] = json.loads(path.read_text()) if path.is_file() else {}
        if all(isinstance(name, str) for names in found.values() for name in names):
            return found
    except (OSError, ValueError, AttributeError, TypeError):
        pass
    raise InputError(f"{path} is damaged: train again into a new --workdir")


def restore(
    workdir: Path, name: str, config: Any, backbones: Backbones, axis_name: str | None = None
) -> tuple[Detector, Variables]:
    """Rebuild one trained detector of a work directory.

    Raises:
        InputError: The checkpoint is missing or damaged.
    """
    names = _subclasses(workdir).get(name, ())
    method, _ = build_method(config, backbones.networks, axis_name=axis_name, subclasses=names)
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
