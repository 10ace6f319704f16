"""Whether a relative path names an image or a mask within its folder, links followed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PureWindowsPath

from jaxad.data.listing import mask_files
from jaxad.data.members import is_container, is_number

OUTSIDE, LINKED, MISSING = "outside", "linked", "missing"


def path_judge(root: Path) -> Callable[..., str]:
    """Make a function that tells what is wrong with a path relative to `root`.

    It says "" (a file, or an image within one, below `root`), `OUTSIDE` (the path itself leads
    out), `LINKED` (a link does) or `MISSING`. With `mask=True` a folder will do that holds images,
    none of which may lead out either. It keeps what it has learnt of folders, so use one for many
    paths, and not for longer than the files stay as they are.
    """
    real_root = Path(os.path.realpath(root))
    known: dict[str, bool] = {}  # folder -> whether it lies within the root
    containers: dict[str, bool] = {}  # folder -> whether it is a file that holds images

    def within(folder: str) -> bool:
        if folder not in known:
            known[folder] = Path(os.path.realpath(root / folder)).is_relative_to(real_root)
        return known[folder]

    def holds_images(folder: str) -> bool:
        if folder not in containers:
            containers[folder] = is_container(root / folder)
        return containers[folder]

    def judge(name: str, *, mask: bool = False) -> str:
        if leaves(name):
            return OUTSIDE
        folder, _, last = name.rpartition("/")
        try:
            if is_number(last) and holds_images(folder):
                return "" if within(folder) else LINKED
            path = root / name
            if mask and path.is_dir():
                verdicts = [judge(f"{name}/{file.name}") for file in mask_files(path)]
                return next((v for v in verdicts if v), "") if verdicts else MISSING
            if not path.is_file():
                return MISSING
            if path.is_symlink():
                return "" if within(name) else LINKED
        except OSError:  # a name that the file system does not take
            return MISSING
        return "" if within(folder) else LINKED

    return judge


def leaves(name: str) -> bool:
    """Whether a relative path, read as POSIX or as Windows does, points out of its folder."""
    if not name.startswith(("/", "\\")) and not any(mark in name for mark in ("..", ":", "\0")):
        return False
    windows = PureWindowsPath(name)
    return (
        bool(windows.drive or windows.root)
        or name.startswith("/")
        or ".." in windows.parts
        or "\0" in name
    )
