"""Layouts on disk that are read into a `Manifest`: one function each, `(root, **options)`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxad.data.layouts import elpv, folder, manifest_file, mvtec_ad
from jaxad.data.manifest import Manifest, some, validate
from jaxad.errors import InputError

LAYOUTS: dict[str, Callable[..., Manifest]] = {
    "mvtec_ad": mvtec_ad.scan,
    "elpv": elpv.scan,
    "folder": folder.scan,
    "manifest": manifest_file.scan,
}


def load_dataset(
    layout: str, root: str | os.PathLike[str], *, categories: Sequence[str] = (), **options: Any
) -> Manifest:
    """Read a dataset and judge it whole: what this returns can be trained and evaluated on.

    Args:
      layout: A name in `LAYOUTS`.
      root: The dataset's folder ("" with layout `elpv`: the installed package).
      categories: The categories wanted, all if empty. Only these need to be complete.
      **options: Of the layout's function, e.g. `normal="good"` of `folder`.

    Raises:
      InputError: unknown layout, option or category, or anything of `manifest.problems`.
    """
    return validate(scan_dataset(layout, root, categories=categories, **options))


def scan_dataset(
    layout: str, root: str | os.PathLike[str], *, categories: Sequence[str] = (), **options: Any
) -> Manifest:
    """Do as `load_dataset`, without judging the records."""
    if layout not in LAYOUTS:
        raise InputError(f"data.layout={layout!r} is unknown: use one of {', '.join(LAYOUTS)}")
    scan = LAYOUTS[layout]
    known = [name for name in inspect.signature(scan).parameters if name != "root"]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise InputError(
            f"layout {layout} has no option {some(unknown)}: it has {', '.join(known) or 'none'}"
        )
    if not os.fspath(root) and layout != "elpv":
        raise InputError(f"data.root is empty: name the folder of the {layout} dataset")
    if root and not Path(root).expanduser().exists():
        raise InputError(f"{root}: no such folder: set data.root to where the dataset is")
    manifest = scan(Path(root).expanduser() if os.fspath(root) else "", **options)
    wanted = (categories,) if isinstance(categories, str) else tuple(categories)
    absent = [name for name in wanted if name not in manifest.categories]
    if absent:
        raise InputError(
            f"{manifest.root}: no category {some(absent)}: there are "
            f"{', '.join(manifest.categories) or 'none'}"
        )
    if not wanted:
        return manifest
    return Manifest(manifest.root, tuple(r for r in manifest.records if r.category in wanted))


def guess_layout(root: str | os.PathLike[str]) -> str:
    """Name the layout that a folder looks like, for `jaxad data check` without `--layout`.

    Raises:
      InputError: it looks like none.
    """
    path = Path(root).expanduser()
    if path.suffix.lower() == ".csv" or (path / "manifest.csv").is_file():
        return "manifest"
    if (path / "labels.csv").is_file() or (path / "data" / "labels.csv").is_file():
        return "elpv"
    if any(path.glob("*/train")) or (path / "train").is_dir():
        return "mvtec_ad"
    if (path / "good").is_dir():
        return "folder"
    raise InputError(f"{root}: can not tell the layout: give --layout ({', '.join(LAYOUTS)})")
