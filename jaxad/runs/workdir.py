"""A trained detector back from its work directory, which may be a stranger's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxad.config import load_config
from jaxad.core import InputError, Variables
from jaxad.data.manifest import some
from jaxad.detector import Detector
from jaxad.files import confined, read_json, write_json
from jaxad.recipes.build import build_backbones, learns_subclasses, models, network_keys
from jaxad.recipes.recipe import Backbones, Model
from jaxad.runs import checkpoint, record
from jaxad.runs.dataset import read_trained_on
from jaxad.runs.lock import holder

SUBCLASSES = "subclasses.json"
"""For methods that learn subclasses: detector -> their names, in order."""
CHECKPOINTS = "checkpoints"
PHOTOS = "photos"
"""With a checkpoint, for methods that can be updated: the first `fingerprint.DIGITS` digits of the
SHA-256 of every photo that was learnt, as the method counts them."""


def opened(workdir: str | Path) -> Path:
    """See that something is there to be read.

    Raises:
        InputError: There is no such folder.
    """
    path = Path(workdir)
    try:
        there = path.is_dir()
    except (OSError, ValueError):  # a name that no folder can have
        there = False
    if not there:
        raise InputError(f"{path} is no folder, so there is no config.json of a run: train first")
    return path


def trained_backbones(workdir: Path, config: Any, hashes: Mapping[str, str]) -> Backbones:
    """Load the frozen networks that a work directory was trained with.

    Raises:
        InputError: Weights are missing, or others than those; or `config.json` does not say which.
    """
    backbones = build_backbones(config)
    if set(hashes) != set(backbones.sha256):
        raise InputError(
            f"{workdir / 'config.json'} is damaged: it has no SHA-256 of the weights of "
            f"{', '.join(sorted(set(hashes) ^ set(backbones.sha256)))}; train again"
        )
    for role, trained_with in hashes.items():
        if backbones.sha256[role] != trained_with:
            name = network_keys(config).get(role, "of the method")
            raise InputError(
                f"the {role} weights ({name}) are not those "
                f"that {workdir} was trained with (SHA-256 {trained_with[:12]}…): bring those "
                "back, or train again"
            )
    return backbones


def trained(workdir: Path) -> list[str]:
    """Names of the detectors that are there whole, sorted."""
    folder = confined(workdir, CHECKPOINTS)
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if record.is_whole(path))


def detectors(workdir: Path) -> list[str]:
    """Names of the detectors that are there whole, at least one.

    Raises:
        InputError: There is none: a run is still writing, or has stopped.
    """
    names = trained(workdir)
    if not names:
        why = "none was trained, or not to the end" if holder(workdir) is None else "a run is at it"
        raise InputError(f"{workdir} has no detector yet: {why} (jaxad status {workdir})")
    return names


def detector_of(workdir: Path, config: Any, category: str | None) -> tuple[str, str]:
    """The trained detector of a category, and the category, which may be left out if it is alone.

    Raises:
        InputError: There is none.
    """
    categories = sorted(read_trained_on(workdir).n_train)
    if category is None and len(categories) == 1:
        category = categories[0]
    if category not in categories:
        raise InputError(
            f"{workdir} was trained on {some(categories, 5)}: name one of them by --category, not "
            f"{category!r}"
        )
    detector = "all" if config.data.one_for_all else category
    if detector not in trained(workdir):
        raise InputError(f"{detector!r} is not trained yet: run jaxad train again, it goes on")
    return detector, category


def photos_of_bank(workdir: Path, detector: str) -> list[str]:
    """The `PHOTOS` of a trained detector; none where they are not kept.

    Raises:
        InputError: What is kept is damaged.
    """
    path = confined(workdir, CHECKPOINTS, detector)
    found = checkpoint.about(path).get(PHOTOS, [])
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise InputError(f"{path} does not say which photos its bank is of: train again")
    return found


def save_subclasses(path: Path, names: Mapping[str, Sequence[str]]) -> None:
    """Write the subclasses that each detector has learnt by themselves."""
    write_json(path, {detector: list(own) for detector, own in names.items()})


def subclasses_of(workdir: Path) -> dict[str, list[str]]:
    """Read the subclasses that each detector has learnt; none where there is no list.

    Raises:
        InputError: The list is damaged.
    """
    path = confined(workdir, SUBCLASSES)
    if not path.is_file():
        return {}
    found = read_json(path, "the list of subclasses", "train again into a new --workdir")
    if not isinstance(found, dict) or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names)
        for names in found.values()
    ):
        raise InputError(f"{path} is damaged: train again into a new --workdir")
    return found


def restore(
    workdir: Path, name: str, config: Any, backbones: Backbones, model: Callable[[int], Model]
) -> tuple[Model, Variables]:
    """Read one trained detector of a work directory: its model and the method's variables.

    Raises:
        InputError: The checkpoint is missing or damaged.
    """
    built, template = shapes_of(subclasses_of(workdir).get(name, ()), config, backbones, model)
    path = confined(workdir, CHECKPOINTS, name)
    return built, checkpoint.restore(path, template, grows=built.detector.method.grows)


def shapes_of(
    subclasses: Sequence[str], config: Any, backbones: Backbones, model: Callable[[int], Model]
) -> tuple[Model, Variables]:
    """The model of a detector that has learnt these subclasses, and its variables' first shapes."""
    built = model(len(subclasses) if learns_subclasses(config) else 0)
    size = tuple(config.data.image_size)
    template = jax.eval_shape(
        lambda rng, v: built.detector.init(rng, v, size=size)["method"],
        jax.random.key(0),
        backbones.variables,
    )
    return built, template


def routed_by(workdir: Path, name: str, detector: Detector) -> tuple[str, ...]:
    """Names of the subclasses that a detector takes photos for, by `Routed.subclass`.

    None where its method has no `route`.

    Raises:
        InputError: The list of subclasses is damaged.
    """
    if detector.method.route is None:
        return ()
    return tuple(subclasses_of(workdir).get(name, ()))


class Trained(NamedTuple):
    """A trained detector, with its frozen networks."""

    detector: Detector
    variables: Variables
    backbones: Backbones


def trained_detector(workdir: Path, name: str, config: Any, hashes: Mapping[str, str]) -> Trained:
    """Bring back one detector of a work directory whose configuration is read.

    Raises:
        InputError: Other weights, or the checkpoint is missing or damaged.
    """
    backbones = trained_backbones(workdir, config, hashes)
    model, method = restore(workdir, name, config, backbones, models(config, backbones))
    variables = {"backbones": backbones.variables, "method": method}
    return Trained(model.detector, variables, backbones)


def load(workdir: str | Path, detector: str | None = None) -> tuple[Detector, Variables, Any]:
    """Load a trained detector: `(detector, variables, config)`; `detector.score` is jit-able.

    Args:
        workdir: What `jaxad train` wrote.
        detector: Name of a category (or "all"); may be left out where there is only one.

    Raises:
        InputError: Not a work directory, no such detector, other weights, or a damaged checkpoint.
    """
    workdir = opened(workdir)
    config, hashes = load_config(confined(workdir, "config.json"))
    names = detectors(workdir)
    if detector is None and len(names) == 1:
        detector = names[0]
    if detector not in names:
        raise InputError(f"{workdir} has detectors {names}: name one of them, not {detector!r}")
    found = trained_detector(workdir, detector, config, hashes)
    return found.detector, found.variables, config
