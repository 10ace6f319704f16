"""What is in a folder: images by their names, folders, and the files of one mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxad.data.images import SUFFIXES


def images_in(folder: Path) -> list[Path]:
    """List the image files directly in a folder, sorted by name; hidden files are passed over."""
    if not folder.is_dir():
        return []
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
    )


def images_below(folder: Path, *, apart_from: Sequence[Path] = ()) -> list[Path]:
    """List image files at any depth, sorted, without hidden ones and the folders `apart_from`."""
    if not folder.is_dir():
        return []
    return sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
        and not any(p.is_relative_to(other) for other in apart_from)
        and p.is_file()
    )


def folders(path: Path) -> list[Path]:
    """List the folders directly in a folder, sorted by name, without hidden ones."""
    if not path.is_dir():
        return []
    return sorted(d for d in path.iterdir() if d.is_dir() and not d.name.startswith("."))


def masks_in(folder: Path) -> dict[str, Path]:
    """Find the masks directly in a folder by their names without ending.

    A folder that holds images is one mask, too: all of them together (MVTec LOCO AD has a mask for
    every defect of a photo). Of several of one name the first counts, files before folders.
    """
    found: dict[str, Path] = {}
    for path in images_in(folder):
        found.setdefault(path.stem, path)
    for path in folders(folder):
        if path.name not in found and images_in(path):
            found[path.name] = path
    return found


def mask_files(path: Path) -> list[Path]:
    """List the files of a mask: itself, or the images in it where it is a folder."""
    return images_in(path) if path.is_dir() else [path]
