"""What runs have written into a work directory: only that may be deleted or written over.

`jaxad.json` in the folder lists it, written before anything else is. A folder without one is
nobody's or somebody else's: jaxad adds to it, and refuses where a name that it needs is taken. The
list may come from a stranger, so it can only name what runs write, and no links are followed.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxad.errors import InputError
from jaxad.files import confined, make_folder, read_json, write_json

NAME = "jaxad.json"
"""Of the record, and of the list of a checkpoint's files with their checksums."""
FORMAT = 1
UNFINISHED = ".saving-"
"""Start of the names of folders, beside checkpoints, in which one is written until it is whole."""

_ENTRY = re.compile(
    r"(config|data|subclasses|results|results\.part)\.json|train\.jsonl|report/(index|part)\.html"
    r"|\.prepared/|profile/|track/|checkpoints/[^/]+/|replicates/[1-9][0-9]*/"
)
"""What a run writes; folders end in a slash."""


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
        return self._remember("/".join(parts))

    def tree(self, *parts: str) -> Path:
        """Name a folder that a run makes now and that is its own with all that comes into it.

        Raises:
            InputError: There is such a folder already, and no run has made it.
        """
        return self._remember("/".join(parts) + "/")

    def within(self, *parts: str) -> Path:
        """Name a work directory within this one; it has a record of its own, and may be there."""
        return self._remember("/".join(parts) + "/", may_be_there=True)

    def _remember(self, entry: str, *, may_be_there: bool = False) -> Path:
        path = confined(self.folder, entry)
        make_folder(path.parent)
        if entry not in self._entries:
            if os.path.lexists(path) and not may_be_there:
                raise _taken(path)
            self._entries[entry] = None
            self.write()
        return path

    def write(self) -> None:
        """Write the record itself."""
        about = {"format": FORMAT, "about": "what jaxad wrote here", "wrote": self.entries}
        write_json(self.folder / NAME, about)

    def holds_results(self) -> bool:
        """Whether anything is there that took time: a trained detector or results."""
        for entry in self.entries:
            path = _plain(self.folder, entry)
            if entry.startswith("replicates/"):
                inner = read(path)
                if inner is not None and inner.holds_results():
                    return True
            elif entry.startswith(("checkpoints/", "results")) and os.path.lexists(path):
                return True
        return False

    def everything(self) -> Iterator[str]:
        """The entries, and those of work directories within."""
        for entry in self.entries:
            yield entry
            if entry.startswith("replicates/"):
                inner = read(_plain(self.folder, entry))
                yield from () if inner is None else (entry + e for e in inner.everything())

    def check_clear(self) -> None:
        """See that `clear` deletes nothing but what runs have written, and leaves no name taken.

        Raises:
            InputError: A checkpoint's folder has other files too, a link is in the way, a file is
                where a folder was or the other way round, or a list is damaged.
        """
        for entry in self.everything():
            path = _plain(self.folder, entry)
            if os.path.lexists(path) and path.is_dir() != entry.endswith("/"):
                raise _taken(path)
            if "checkpoints/" in entry and path.is_dir():
                ours = checkpoint_files(path)
                for found in _files(path):
                    if found.relative_to(path).as_posix() not in ours:
                        raise _taken(found)

    def clear(self) -> None:
        """Delete what is recorded, and folders that are empty then; all else stays."""
        for entry in reversed(self.entries):
            path = _plain(self.folder, entry)
            if entry.startswith("replicates/"):
                inner = read(path)
                if inner is not None:
                    inner.clear()
                    (path / NAME).unlink()
            elif entry.startswith("checkpoints/") and path.is_dir():
                _clear_checkpoint(path)
            elif entry.endswith("/"):
                shutil.rmtree(path, ignore_errors=True)
            elif not path.is_dir():
                path.unlink(missing_ok=True)
            if entry.startswith("checkpoints/"):
                _clear_unfinished(path.parent)
            _drop_empty(self.folder, path)
        self._entries = {}


def checkpoint_files(folder: Path) -> set[str]:
    """The files of a checkpoint by its own list, that list included; none where it has none.

    Raises:
        InputError: A damaged list.
    """
    path = folder / NAME
    if not os.path.lexists(path):
        return set()
    found: Any = read_json(path, "the checkpoint's list", _MEND)
    wrote = found.get("wrote") if isinstance(found, dict) else None
    if not isinstance(wrote, dict):
        raise InputError(f"{path} is damaged: {_MEND}")
    return {*wrote, NAME}


_MEND = "move it away, or choose another --workdir"


def _files(folder: Path) -> Iterator[Path]:
    """All below a folder that is no folder itself, or a link."""
    for place, folders, names in os.walk(folder):
        yield from (Path(place) / name for name in names)
        yield from (Path(place) / name for name in folders if (Path(place) / name).is_symlink())


def _clear_checkpoint(folder: Path) -> None:
    """Delete a checkpoint's files by its list, and the folders that are empty then."""
    ours = checkpoint_files(folder)
    for found in list(_files(folder)):
        if found.relative_to(folder).as_posix() in ours:
            found.unlink()
    for place, _, _ in os.walk(folder, topdown=False):
        if not any(Path(place).iterdir()):
            Path(place).rmdir()


def _clear_unfinished(folder: Path) -> None:
    """Delete what saves left that were killed."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith(UNFINISHED) and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)


def _drop_empty(top: Path, path: Path) -> None:
    for folder in (path, *path.parents):
        if folder == top:
            return
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _plain(folder: Path, entry: str) -> Path:
    """The path of an entry, if no link is on the way; a file may be a link, which is then deleted.

    Raises:
        InputError: There is one.
    """
    path = folder
    parts = entry.rstrip("/").split("/")
    for n, part in enumerate(parts):
        path = path / part
        if path.is_symlink() and (n < len(parts) - 1 or entry.endswith("/")):
            raise InputError(f"{path} is a link, which no jaxad run has made: remove it")
    return path


def _taken(path: Path) -> InputError:
    """The refusal of a name that somebody else has used."""
    return InputError(f"{path} is there and was not written by a jaxad run: {_MEND}")


def read(folder: Path) -> Record | None:
    """Read a folder's record; None if it has none.

    Raises:
        InputError: A damaged one, or one that names what no run writes.
    """
    path = confined(folder, NAME)
    if not os.path.lexists(path):
        return None
    mend = "choose another --workdir"
    found: Any = read_json(path, "the record of a work directory", mend)
    wrote = found.get("wrote") if isinstance(found, dict) else None
    if not isinstance(wrote, list) or found.get("format") != FORMAT:
        raise InputError(f"{path} is damaged or of another jaxad: {mend}")
    for entry in wrote:
        parts = entry.split("/") if isinstance(entry, str) else []
        if not parts or not _ENTRY.fullmatch(entry) or {".", ".."} & set(parts) or "\0" in entry:
            raise InputError(f"{path} names {entry!r}, which no run writes: {mend}")
    return Record(folder, wrote)


def claim(folder: Path, names: Iterable[str], *, overwrite: bool) -> Record:
    """Make a folder the work directory of a new run, without what an earlier run wrote there.

    Args:
        folder: Made if needed.
        names: What the run will write, below it.
        overwrite: Whether an earlier run's trained detectors and results may go.

    Raises:
        InputError: The folder can not be made, holds a run, or has a file of one of the names that
            no run has written; nothing is touched then.
    """
    try:
        os.fspath(folder.absolute()).encode()
    except UnicodeEncodeError as error:  # checkpoints can not be written there
        raise InputError(
            f"{folder.absolute()} has bytes in its name that are no UTF-8: choose another --workdir"
        ) from error
    make_folder(folder)
    record = read(folder) or Record(folder)
    if not overwrite and record.holds_results():
        raise InputError(f"{folder} holds a run: choose another --workdir or add --overwrite")
    ours = {entry.rstrip("/") for entry in record.everything()}
    for name in names:
        path = _plain(folder, name)
        for above in path.parents:
            if above == folder:
                break
            if os.path.lexists(above) and not above.is_dir():
                raise _taken(above)
        if name not in ours and os.path.lexists(path):
            raise _taken(path)
    record.check_clear()
    record.clear()
    record.write()
    return record
