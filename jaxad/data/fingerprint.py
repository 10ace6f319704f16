"""What a dataset was when a detector was trained on it, and what has changed since.

A fingerprint is a tree of plain dicts and strings, to be kept as JSON (about 80 bytes a photo):
category, split and path lead to `photo-mask-facts`, the first 12 hex digits of SHA-256 over the
photo's file, over the files of its mask (empty without one), and over what the record says (label,
subclass). Paths are relative, so a dataset may move. Images within a file (CIFAR-10) have one entry
for all that a category takes from it. It finds accidents: who wants to forge 48 bits, can.

Whole files are read: a photo of the same size and time may still be another one, and what is
hashed here is in the disk's cache for the run that follows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from jaxad.data.decode import image_path, mask_paths
from jaxad.data.digests import file_digests
from jaxad.data.manifest import SPLITS, Manifest, Record, some
from jaxad.data.members import file_finder
from jaxad.errors import InputError

VERSION = 1
DIGITS = 12
"""Of each hash."""
_WORDS = {"train": "training", "calibration": "calibration", "test": "test"}
_CHANGED = ("", "masks of ", "labels or subclasses of ")
"""What may change of a photo, in the order of its entry."""


def fingerprint(
    manifest: Manifest, digests: Mapping[tuple[str, str], str] | None = None
) -> dict[str, Any]:
    """Take the fingerprint of a manifest's photos and masks, as they are on disk.

    Args:
      manifest: Validated: every file is there, and listed once in its category and split.
      digests: Of its photos, where `photo_digests` has read them: they are not read again.

    Returns:
      `{"version": 1, "categories": {category: {split: {path: "photo-mask-facts"}}}}`.

    Raises:
      InputError: a file can not be read.
    """
    file_of = file_finder()
    known: dict[Path, str] = {}
    containers: set[Path] = set()
    groups: dict[tuple[str, str, str], list[Record]] = {}
    photos: dict[tuple[str, str, str], Path] = {}
    for record in manifest.records:
        image, name = image_path(manifest.root, record), record.path
        photo = file_of(image)
        if photo != image:
            name = str(PurePosixPath(name).parent)
            containers.add(photo)
        elif digests:
            known[photo] = digests[record.root, record.path]
        key = record.category, record.split, name
        groups.setdefault(key, []).append(record)
        photos[key] = photo
    masks = {key: mask_paths(manifest.root, records[0]) for key, records in groups.items()}
    splits = {path: _beside(path) for path in containers if not path.exists()}
    files = {path for paths in (*masks.values(), *splits.values()) for path in paths}
    files |= {*photos.values()}
    known |= file_digests(sorted(files - splits.keys() - known.keys()))
    for path, beside in splits.items():
        every = [known[file] for file in beside]
        known[path] = _sha256("".join(every)) if len(every) > 1 else every[0]

    categories: dict[str, dict[str, dict[str, str]]] = {
        name: {split: {} for split in SPLITS} for name in manifest.categories
    }
    for (category, split, name), records in groups.items():
        facts = [(r.path, r.label, r.subclass, r.as_stored) for r in records]
        mask = [[path.name, known[path][:DIGITS]] for path in masks[category, split, name]]
        photo_digest = known[photos[category, split, name]][:DIGITS]
        mask_digest = _short(repr(mask)) if mask else ""
        entry = f"{photo_digest}-{mask_digest}-{_short(repr(facts))}"
        categories[category].setdefault(split, {})[name] = entry
    return {"version": VERSION, "categories": categories}


def contents(data: Mapping[str, Any], *, split: str) -> set[str]:
    """The first `DIGITS` digits of the SHA-256 of every photo of a split, by a fingerprint.

    Raises:
      InputError: `data` is no fingerprint.
    """
    return {
        entry.split("-")[0]
        for splits in _categories(data).values()
        for entry in splits.get(split, {}).values()
    }


def changes(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    categories: Sequence[str] = (),
    splits: Sequence[str] = SPLITS,
) -> list[str]:
    """Say in lines of text how a dataset differs from what it was; none where it does not.

    Args:
      before: A fingerprint, as JSON kept it.
      now: Another.
      categories: Those to compare, all if empty.
      splits: Those to compare.

    Raises:
      InputError: `before` or `now` is no fingerprint.
    """
    old, new = _categories(before), _categories(now)
    wanted = [c for c in sorted({*old, *new}) if not categories or c in categories]
    lines = []
    for category in wanted:
        if category not in new:
            lines.append(f"category {category!r} is not there any more")
        elif category not in old:
            lines.append(f"category {category!r} is new")
        else:
            for split in splits:
                kind = f"{_WORDS[split]} photos of {category!r}"
                was, has = old[category].get(split, {}), new[category].get(split, {})
                lines += _compare(kind, was, has)
    return lines


def _compare(kind: str, was: dict[str, str], has: dict[str, str]) -> Iterator[str]:
    both = {name: (was[name].split("-"), has[name].split("-")) for name in was if name in has}
    for place, what in enumerate(_CHANGED):
        changed = [name for name, (old, new) in both.items() if old[place] != new[place]]
        if changed:
            yield f"{what}{len(changed)} {kind} changed: {some(changed)}"
    for verdict, names in (
        ("are gone", [name for name in was if name not in has]),
        ("are new", [name for name in has if name not in was]),
    ):
        if names:
            yield f"{len(names)} {kind} {verdict}: {some(names)}"


def _categories(data: Any) -> dict[str, dict[str, dict[str, str]]]:
    """Take a fingerprint apart that may come from a damaged or foreign file."""
    if isinstance(data, Mapping) and data.get("version") == VERSION:
        found = data.get("categories")
        if isinstance(found, dict) and all(
            isinstance(splits, dict) and all(map(_is_split, splits.values()))
            for splits in found.values()
        ):
            return found
    raise InputError(
        "the fingerprint of the data is damaged or of another version of jaxad, so that it can not "
        "be compared: train again"
    )


def _is_split(data: Any) -> bool:
    return isinstance(data, dict) and all(
        isinstance(entry, str) and entry.count("-") == 2 for entry in data.values()
    )


def _beside(split: Path) -> list[Path]:
    """All files of a split of tfds."""
    try:
        return sorted(path for path in split.parent.iterdir() if path.is_file())
    except OSError as error:
        raise InputError(f"{split}: can not be read ({error.strerror})") from error


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _short(text: str) -> str:
    return _sha256(text)[:DIGITS]
