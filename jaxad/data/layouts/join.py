"""Layout `join`: several datasets put together, each with the folder and layout of its own.

The parts come from the configuration, never from a file of the data, so that what is on disk can
not name files elsewhere. Every record keeps the folder of its part, and its paths are held to that
folder as they would be alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxad.data.manifest import Manifest, Record, some
from jaxad.errors import InputError


class Part(NamedTuple):
    """One of the datasets."""

    layout: str
    root: str = ""
    categories: str = ""
    """Comma-separated, "": all."""


def read_parts(parts: object) -> list[Part]:
    """Read `data.join`: `((layout, root), (layout, root, categories), ...)`.

    Raises:
      InputError: anything else.
    """
    form = "(('elpv', ''), ('mvtec_ad', 'ROOT', 'bottle,cable'))"
    if not isinstance(parts, tuple | list) or not parts:
        raise InputError(f"data.join is {parts!r}: name the datasets to join, as {form}")
    read = []
    for part in parts:
        strings = isinstance(part, tuple | list) and all(isinstance(field, str) for field in part)
        if not strings or not 1 <= len(part) <= 3:
            raise InputError(f"data.join has {part!r}, where a part is one of {form}")
        if part[0] == "join":
            raise InputError("data.join has a part of layout 'join': list its parts instead")
        read.append(Part(*part))
    return read


def join(parts: Sequence[Part], manifests: Sequence[Manifest]) -> Manifest:
    """Put manifests together.

    A category keeps its name, unless several parts have it: then it is `<folder>-<category>` in
    each of them, with the name of the part's folder (or of its layout, where it has none).

    Raises:
      InputError: two categories can not be told apart even so.
    """
    times = Counter(name for manifest in manifests for name in manifest.categories)
    records: list[Record] = []
    aside: list[Record] = []
    taken: dict[str, Part] = {}
    for part, manifest in zip(parts, manifests):
        where = Path(part.root)
        folder = (where.parent if where.suffix == ".csv" else where).name or part.layout
        renamed = {
            name: f"{folder}-{name}" if times[name] > 1 else name for name in manifest.categories
        }
        again = [name for name in renamed.values() if name in taken]
        if again:
            raise InputError(
                f"data.join has category {some(again)} in {tuple(taken[again[0]])!r} and in "
                f"{tuple(part)!r}: give each part other categories, or rename a folder"
            )
        taken |= dict.fromkeys(renamed.values(), part)
        records += [
            r._replace(category=renamed[r.category], root=str(manifest.root))
            for r in manifest.records
        ]
        aside += [r._replace(root=str(manifest.root)) for r in manifest.aside]
    return Manifest(Path(), tuple(records), aside=tuple(aside))
