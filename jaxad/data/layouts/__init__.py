"""Layouts on disk that are read into a `Manifest`: one function each, `(root, **options)`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxad.data.jobs import name_list
from jaxad.data.layouts import (
    cifar10,
    elpv,
    folder,
    join,
    manifest_file,
    mvtec_ad,
    texture_ad,
    visa,
)
from jaxad.data.manifest import Manifest, name_of, some, validate
from jaxad.errors import InputError


def scan_join(
    root: str | os.PathLike[str],
    *,
    parts: object = (),
    folder: Mapping[str, Any] | None = None,
    texture_ad: Mapping[str, Any] | None = None,
) -> Manifest:
    """Read several datasets as one; see `jaxad.data.layouts.join`.

    Args:
      root: What the parts' roots are relative to; "": the working directory.
      parts: `((layout, root), (layout, root, categories), ...)`. An empty root is `root` itself,
        or, of layout `elpv`, the installed package.
      folder: Options of the parts of layout `folder`.
      texture_ad: … and of layout `texture_ad`.

    Raises:
      InputError: parts of another form, or one that can not be read.
    """
    read = join.read_parts(parts)
    options = {"folder": folder, "texture_ad": texture_ad}
    manifests = []
    for part in read:
        where = (
            Path(root, Path(part.root).expanduser()) if part.root or part.layout != "elpv" else ""
        )
        manifests.append(
            scan_dataset(
                part.layout,
                where,
                categories=name_list(part.categories),
                **(options.get(part.layout) or {}),
            )
        )
    return join.join(read, manifests)


LAYOUTS: dict[str, Callable[..., Manifest]] = {
    "mvtec_ad": mvtec_ad.scan,
    "visa": visa.scan,
    "cifar10": cifar10.scan,
    "elpv": elpv.scan,
    "texture_ad": texture_ad.scan,
    "folder": folder.scan,
    "manifest": manifest_file.scan,
    "join": scan_join,
}
_ROOTLESS = ("elpv", "join")
"""Layouts that can do without a root."""


def load_dataset(
    layout: str, root: str | os.PathLike[str], *, categories: Sequence[str] = (), **options: Any
) -> Manifest:
    """Read a dataset and judge it whole: what this returns can be trained and evaluated on.

    Args:
      layout: A name in `LAYOUTS`.
      root: The dataset's folder ("" with layout `elpv`: the installed package; with `join`: the
        working directory).
      categories: The categories wanted, all if empty. Only these need to be complete.
      **options: Of the layout's function, e.g. `normal="good"` of `folder`.

    Raises:
      InputError: unknown layout, option or category, a folder that can not be read, or anything of
        `manifest.problems`.
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
    if not os.fspath(root) and layout not in _ROOTLESS:
        raise InputError(f"data.root is empty: name the folder of the {layout} dataset")
    try:
        if root and not Path(root).expanduser().exists():
            raise InputError(
                f"{root}: no such folder: give the data set's path (--config.data.root=FOLDER)"
            )
        manifest = scan(Path(root).expanduser() if os.fspath(root) else "", **options)
    except OSError as error:
        where = error.filename or root
        raise InputError(f"{where}: can not be read ({error.strerror})") from error
    wanted = (categories,) if isinstance(categories, str) else tuple(categories)
    absent = [name for name in wanted if name not in manifest.categories]
    if absent:
        raise InputError(
            f"{name_of(manifest)}: no category {some(absent)}: there are "
            f"{', '.join(manifest.categories) or 'none'}"
        )
    if not wanted:
        return manifest
    return Manifest(
        manifest.root,
        tuple(r for r in manifest.records if r.category in wanted),
        aside=tuple(r for r in manifest.records if r.category not in wanted),
    )


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
    if visa.looks_so(path):
        return "visa"
    if cifar10.looks_so(path):
        return "cifar10"
    if any(path.glob("*/train")) or (path / "train").is_dir():
        return "mvtec_ad"
    if any(path.glob("*/*/train")):
        return "texture_ad"
    if (path / "good").is_dir():
        return "folder"
    raise InputError(
        f"{root}: can not tell the layout: name it by data.layout, or by --layout of `jaxad data "
        f"check` ({', '.join(LAYOUTS)})"
    )
