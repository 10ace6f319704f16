"""The bytes of an exported detector: its program, its weights, what is said of them."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax
import numpy as np

import jaxad
from jaxad.backbones.weights import find, read
from jaxad.core import Array, InputError, Variables
from jaxad.detector import Detector
from jaxad.errors import first_line
from jaxad.export import archive, manifest, program, tensors
from jaxad.recipes.build import network_keys


def file_of(
    detector: Detector,
    variables: Variables,
    about: manifest.About,
    *,
    texts: Mapping[str, Any],
) -> tuple[bytes, str]:
    """Make the file that `jaxad.export.load` reads; the same bytes of the same arguments.

    Args:
        detector: What scores.
        variables: Its variables, as trained.
        about: What is said of it.
        texts: Member -> JSON: `archive.PROVENANCE`, and `archive.CALIBRATION` if there is one.

    Returns:
        The bytes, and the id.

    Raises:
        InputError: The method can not be exported: what it computes depends on the number of
            images, or leaves XLA.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(jax.jit(detector.fold)(variables))
    arrays = {_place(path): np.asarray(leaf) for path, leaf in leaves}

    wanted = detector.routed if about.subclasses else detector.score

    def score(weights: Sequence[Array], images: Array) -> tuple[Array, ...]:
        return tuple(wanted(jax.tree.unflatten(tree, weights), images))

    try:
        weights = [tensors.specification(place, array) for place, array in arrays.items()]
        text, convention = program.make(score, weights, about.size, about.platforms)
        refused = program.look_through(text)
        if refused:
            raise ValueError(f"it is more than computing: {', '.join(refused)}")
    except Exception as error:  # JAX says so in many ways, of methods that are not ours
        raise InputError(
            f"method {about.method} can not be exported for any number of images: "
            f"{first_line(error, 300)}"
        ) from error
    members = {archive.PROGRAM: text, archive.WEIGHTS: tensors.save(arrays)}
    members |= {member: _json(value) for member, value in texts.items()}
    found = manifest.describe(
        about,
        calling_convention=convention,
        weights=weights,
        members={n: (len(d), hashlib.sha256(d).hexdigest()) for n, d in members.items()},
    )
    return archive.pack({archive.MANIFEST: _json(found), **members}), found["id"]


def provenance(
    config: Any, weights: Mapping[str, str], trained_on: Mapping[str, Any]
) -> dict[str, Any]:
    """Where a file comes from: for people and their audits; nothing is computed by it.

    Args:
        config: Of the training.
        weights: SHA-256 of the frozen networks' files by role.
        trained_on: What is said of the data.
    """
    return {
        "configuration": json.loads(config.to_json()),
        "data": dict(trained_on),
        "weights": {role: _weights(config, role, own) for role, own in sorted(weights.items())},
        "versions": {
            "jaxad": jaxad.__version__,
            "jax": jax.__version__,
            "flax": flax.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def digest(value: Any) -> str:
    """SHA-256 of a value as JSON, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _weights(config: Any, role: str, sha256: str) -> dict[str, Any]:
    """What the file of a frozen network says of itself."""
    name = network_keys(config).get(role)
    if not isinstance(name, str) or sha256.startswith("random:"):
        return {"sha256": sha256}
    _, stated = read(find(name, config.weights or None))
    kept = ("architecture", "source", "source_sha256", "recipe", "licence")
    return {"sha256": sha256, **{key: getattr(stated, key) for key in kept}}


def _place(path: Sequence[Any]) -> str:
    """A leaf's place in the tree, "backbones/source/params/..."."""
    return "/".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
