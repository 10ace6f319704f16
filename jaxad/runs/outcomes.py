"""What was measured of a category, kept until the whole run is: no photo is scored twice.

One file a category, `outcomes/HASH.npz`, written whole or not at all. It holds plain arrays and one
JSON text, and the key of all that decides the figures: another key, or damage, and the category is
scored again.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

import jaxad
from jaxad.config import flat
from jaxad.errors import InputError, first_line
from jaxad.files import confined, read_json, write_bytes
from jaxad.own_keys import MAY_CHANGE
from jaxad.report.small import Small
from jaxad.report.view import CategoryView, Example
from jaxad.runs import checkpoint, record
from jaxad.runs.score_category import Scored

FOLDER = "outcomes"
_LISTS = ("defects", "missed", "normal")
_ABOUT = "about"
_FORMAT = 3
"""Of a file; what another one holds is measured anew."""


def measured_by(
    config: Any, weights: Mapping[str, str], fingerprint: Mapping[str, Any], detector: Path
) -> str:
    """One text for all that decides the figures of a detector.

    Args:
        config: The configuration.
        weights: SHA-256 of the frozen networks' files, by role.
        fingerprint: Of the data.
        detector: Folder of its checkpoint.
    """
    harmless = {*MAY_CHANGE} - {"report.examples"}
    keys = sorted((k, v) for k, v in flat(config.to_dict()).items() if k not in harmless)
    sums = read_json(detector / checkpoint.SUMS)
    versions = jax.device_count(), jax.__version__, jaxad.__version__
    facts = keys, sorted(weights.items()), fingerprint, sums, versions
    return hashlib.sha256(repr(facts).encode(errors="surrogateescape")).hexdigest()


class Kept(Protocol):
    """Keeps what is measured of the categories of a detector."""

    def keep(self, name: str, scored: Scored) -> None:
        """Keep what was measured of a category."""

    def kept(self, name: str) -> Scored | None:
        """What was kept of a category; None if nothing."""


class Outcomes:
    """The outcomes of one detector in one work directory."""

    def __init__(self, claimed: record.Record, key: str) -> None:
        """Set up; nothing is read or written."""
        self._claimed, self._key = claimed, key

    def keep(self, name: str, scored: Scored) -> None:
        """Keep what was measured of a category.

        Raises:
            InputError: It can not be written.
        """
        view = scored.view
        arrays = {"labels": view.labels, "scores": view.scores}
        names: dict[str, list[Any]] = {}
        for kind in _LISTS:
            names[kind] = []
            for n, example in enumerate(getattr(view, kind)):
                names[kind].append([example.name, example.label, example.score, example.number])
                arrays[f"{kind}/{n}/image"], arrays[f"{kind}/{n}/map"] = example.image, example.map
                if example.mask is not None:
                    arrays[f"{kind}/{n}/mask"] = example.mask
        if view.small is not None:
            arrays |= {f"small/{part}": own for part, own in view.small._asdict().items()}
        if view.pro is not None:
            arrays["pro"] = view.pro
        about = {
            "format": _FORMAT,
            "key": self._key,
            "name": name,
            "metrics": scored.metrics,
            "seconds": scored.seconds,
            "steady": scored.steady,
            "colours": view.colours,
            "examples": names,
            "names": list(view.names),
            "kinds": list(view.kinds),
            "taken": list(view.taken),
        }
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        data = io.BytesIO()
        np.savez(data, allow_pickle=False, **{_ABOUT: text, **arrays})
        self._claimed.tree(FOLDER).mkdir(exist_ok=True)
        write_bytes(self._path(name), data.getvalue())

    def kept(self, name: str) -> Scored | None:
        """What was kept of a category; None if nothing, or nothing of this key."""
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            return self._read(path, name)
        # Whatever numpy, zipfile or json make of a damaged file.
        except Exception as error:
            print(
                f"{path} can not be used ({first_line(error)}): {name} is scored again",
                file=sys.stderr,
            )
            return None

    def _read(self, path: Path, name: str) -> Scored | None:
        with zipfile.ZipFile(path) as members:
            # What is compressed may be of any size: we write nothing so.
            if any(m.compress_type != zipfile.ZIP_STORED for m in members.infolist()):
                raise InputError("it is compressed")
        with np.load(path, allow_pickle=False) as arrays:
            about = json.loads(arrays[_ABOUT].tobytes())
            if about.get("format") != _FORMAT:
                return None
            if about["key"] != self._key or about["name"] != name:
                return None
            defects, missed, normal = (
                [
                    Example(
                        *(str(of[0]), int(of[1])),
                        *(arrays[f"{kind}/{n}/image"], arrays[f"{kind}/{n}/map"]),
                        arrays.get(f"{kind}/{n}/mask"),
                        *(float(of[2]), int(of[3])),
                    )
                    for n, of in enumerate(about["examples"][kind])
                ]
                for kind in _LISTS
            )
            low, high = about["colours"]
            parts = [f"small/{part}" for part in Small._fields]
            view = CategoryView(
                *(arrays["labels"], arrays["scores"], defects, missed, normal, (low, high)),
                names=[str(one) for one in about["names"]],
                kinds=[str(one) for one in about["kinds"]],
                small=Small(*map(arrays.__getitem__, parts)) if parts[0] in arrays else None,
                pro=arrays.get("pro"),
                taken=[str(one) for one in about["taken"]],
            )
        images, seconds = about["steady"]
        return Scored(about["metrics"], view, float(about["seconds"]), (images, seconds))

    def _path(self, name: str) -> Path:
        short = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:16]
        return confined(self._claimed.folder, FOLDER, f"{short}.npz")


def forget(claimed: record.Record) -> None:
    """Delete the outcomes of a work directory: its results are whole."""
    claimed.drop(FOLDER)


def is_under_way(claimed: record.Record) -> bool:
    """Whether a run is not finished that will want its outcomes again."""
    if any(entry.startswith("training/") for entry in claimed.entries):
        return True
    try:
        results = read_json(confined(claimed.folder, "results.json"))
    except InputError:
        return True
    return not isinstance(results, dict) or "missing" in results


def missing(wanted: Sequence[str], outcomes: Sequence[Any]) -> list[str]:
    """The categories of which nothing is measured yet."""
    there = {name for outcome in outcomes for name in outcome.metrics}
    return [name for name in wanted if name not in there]
