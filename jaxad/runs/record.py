"""What runs have written into a work directory: only that may be deleted or written over.

`jaxad.json` in the folder lists it, written before anything else is. A folder without one is
nobody's or somebody else's: jaxad adds to it, and refuses where a name that it needs is taken.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxad.core import InputError
from jaxad.files import confined, make_folder, read_json, write_json

NAME = "jaxad.json"
FORMAT = 1


class Record:
    """The record of one work directory."""

    def __init__(self, folder: Path, entries: Iterable[str] = ()) -> None:
        self.folder = folder
        self._entries = dict.fromkeys(entries)

    @property
    def entries(self) -> list[str]:
        """Paths below the folder, in the order of writing; a folder of ours ends in a slash."""
        return list(self._entries)

    def file(self, *parts: str) -> Path:
        """Name a file that a run writes now, and remember it first.

        Raises:
            InputError: There is such a file already, and no run has written it.
        """
        path = confined(self.folder, *parts)
        make_folder(path.parent)
        self._remember("/".join(parts), path)
        return path

    def tree(self, *parts: str) -> Path:
        """Name a folder that a run makes now and that is its own with all that comes into it.

        Raises:
            InputError: There is such a folder already, and no run has made it.
        """
        path = confined(self.folder, *parts)
        make_folder(path.parent)
        self._remember("/".join(parts) + "/", path)
        return path

    def _remember(self, entry: str, path: Path) -> None:
        if entry in self._entries:
            return
        if os.path.lexists(path):
            raise taken(path)
        self._entries[entry] = None
        self._write()

    def _write(self) -> None:
        write_json(
            self.folder / NAME,
            {"format": FORMAT, "about": "what jaxad wrote here", "wrote": self.entries},
        )

    def clear(self) -> None:
        """Delete what is recorded, and folders that are empty then; all else stays."""
        for entry in reversed(self.entries):
            path = confined(self.folder, entry)
            if entry.endswith("/"):
                _clear_tree(path)
            elif path.is_symlink() or path.is_file():
                path.unlink()
            for folder in (path, *path.parents):
                if folder == self.folder:
                    break
                if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
                    folder.rmdir()
        self._entries = {}


def _clear_tree(path: Path) -> None:
    """Delete a folder of ours: what its own record lists, and forms of it that were not finished."""
    if path.is_dir() and not path.is_symlink():
        inner = read(path)
        if inner is not None:
            inner.clear()
            (path / NAME).unlink()
        elif path.name.startswith("."):  # only while a run lasts; nobody else looks there
            shutil.rmtree(path, ignore_errors=True)
    if path.parent.is_dir():
        unfinished = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{32}}\.(new|old)")
        for beside in path.parent.iterdir():
            if unfinished.fullmatch(beside.name) and not beside.is_symlink():
                shutil.rmtree(beside, ignore_errors=True)


def taken(path: Path) -> InputError:
    """The refusal of a name that somebody else has used."""
    return InputError(
        f"{path} is there and was not written by a jaxad run: move it away, or choose another "
        "--workdir"
    )


def read(folder: Path) -> Record | None:
    """Read a folder's record; None if it has none.

    Raises:
        InputError: A damaged one.
    """
    path = folder / NAME
    if not os.path.lexists(path):
        return None
    mend = "choose another --workdir"
    found: Any = read_json(path, "the record of a work directory", mend)
    wrote = found.get("wrote") if isinstance(found, dict) else None
    # A checkpoint's list has a checksum beside each name.
    entries = list(wrote) if isinstance(wrote, (list, dict)) else None
    if entries is None or not all(isinstance(entry, str) for entry in entries):
        raise InputError(f"{path} is damaged: {mend}")
    for entry in entries:
        confined(folder, entry)
    return Record(folder, entries)


def claim(folder: Path, names: Iterable[str], *, overwrite: bool) -> Record:
    """Make a folder the work directory of a new run, without what an earlier run wrote there.

    Args:
        folder: Made if needed.
        names: What the run will write, below it.
        overwrite: Whether an earlier run's trained detectors may go.

    Raises:
        InputError: The folder can not be made, holds a run, or has a file of one of the names that
            no run has written; nothing is touched then.
    """
    make_folder(folder)
    record = read(folder) or Record(folder)
    trained = [entry for entry in record.entries if entry.startswith("checkpoints/")]
    if not overwrite and any(confined(folder, entry).is_dir() for entry in trained):
        raise InputError(f"{folder} holds a run: choose another --workdir or add --overwrite")
    ours = {entry.rstrip("/") for entry in record.entries}
    for name in names:
        if name not in ours and os.path.lexists(confined(folder, name)):
            raise taken(folder / name)
    record.clear()
    record._write()
    return record
