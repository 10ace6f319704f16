"""Whether a work directory holds this very run, so that the same command goes on with it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxad.config import flat, load_config
from jaxad.core import InputError
from jaxad.data.fingerprint import changes
from jaxad.data.manifest import Record, some
from jaxad.files import confined, read_json
from jaxad.own_keys import MAY_CHANGE
from jaxad.runs import record
from jaxad.runs.dataset import TrainedOn, read_trained_on

_LEFT = re.compile(r"(replicates/\d+/)?(training/[^/]+|outcomes)/")
_MEND = "choose another --workdir, or add --overwrite to begin anew"


def standing(
    folder: Path, config: Any, weights: Mapping[str, str], data: TrainedOn
) -> record.Record | None:
    """The record of a work directory that holds this run, whole or in part; None if it holds none.

    Args:
        folder: May be missing.
        config: Of the run that is asked for.
        weights: SHA-256 of its frozen networks' files, by role.
        data: What it is trained on.

    Raises:
        InputError: It holds another run, or a damaged one: what differs is named.
    """
    found = record.read(folder) if folder.is_dir() else None
    if found is None or not found.holds_results():
        return None
    there, digests = load_config(confined(folder, "config.json"))
    before, now = flat(there.to_dict()), flat(config.to_dict())
    differ = [
        f"{name}={before.get(name)!r} there and {now.get(name)!r} now"
        for name in sorted({*before, *now} - set(MAY_CHANGE))
        if before.get(name) != now.get(name)
    ]
    if differ:
        raise InputError(f"{folder} holds a run of {'; '.join(differ[:4])}: {_MEND}")
    if digests != dict(weights):
        roles = [r for r in {*digests, *weights} if digests.get(r) != weights.get(r)]
        raise InputError(
            f"{folder} holds a run with other weights of {some(sorted(roles))}: bring those back, "
            f"{_MEND}"
        )
    learnt = read_trained_on(folder).fingerprint
    told = changes(learnt, data.fingerprint)
    if told:
        mend = f"bring that back, {_MEND}"
        if not changes(learnt, data.fingerprint, splits=("train", "calibration")):
            mend = (
                f"jaxad evaluate --workdir {folder} measures what is trained on these test photos"
            )
        raise InputError(f"{folder} holds a run of other data ({'; '.join(told[:3])}): {mend}")
    return found


def decides(
    config: Any, weights: Mapping[str, str], photos: Sequence[Record]
) -> dict[str, dict[str, str]]:
    """All that decides what a run learns, as text by name: processes of one run have the same.

    Args:
        config: Of the run.
        weights: SHA-256 of its frozen networks' files, by role.
        photos: That it is trained on, whose content is not read.
    """
    keys = flat(config.to_dict())
    listed = hashlib.sha256(repr([*photos]).encode(errors="surrogateescape")).hexdigest()
    return {
        "configuration": {n: repr(value) for n, value in keys.items() if n not in MAY_CHANGE},
        "weights": dict(weights),
        "photos": {"to train on": listed},
    }


def place_of(folder: Path) -> str | None:
    """Where the run in a folder keeps features; None if it does not say so.

    With other memory "auto" would choose another place, and round otherwise.
    """
    found = read_json(confined(folder, "config.json")).get("feature_cache")
    return found if found in ("device", "host", "off") else None


def finished(
    folder: Path, found: record.Record, *, categories: int, replicates: int
) -> dict[str, Any] | None:
    """The results of a run that has nothing left to do; None if it has.

    Args:
        folder: Of the run.
        found: Its record.
        categories: That it measures.
        replicates: That it has.
    """
    if any(_LEFT.fullmatch(entry) for entry in found.everything()):
        return None
    try:
        results = read_json(confined(folder, "results.json"), "results")
    except InputError:
        return None
    if not isinstance(results, dict) or "missing" in results or not _is_whole(results):
        return None
    counts = len(results["categories"]), results.get("replicates", {}).get("count", 1)
    return results if counts == (categories, replicates) else None


def _is_whole(results: dict[str, Any]) -> bool:
    """Whether it has all that is printed of results."""
    known, seconds = results.get("categories"), results.get("seconds")
    return (
        isinstance(known, dict)
        and isinstance(seconds, dict)
        and all(isinstance(value, dict) for value in (*known.values(), results.get("mean")))
        and all(type(value) in (int, float) for value in seconds.values())
        and isinstance(results.get("replicates", {}), dict)
        and "images_per_second" in results
    )
