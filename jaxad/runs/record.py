"""What runs have written into a work directory: only that may be deleted or written over.

`jaxad.json` in the folder lists it, written before anything else is. A folder without one is
nobody's or somebody else's: jaxad adds to it, and refuses where a name that it needs is taken. The
list may come from a stranger, so it can only name what runs write, and no links are followed.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxad.errors import InputError
from jaxad.files import confined, is_temporary, make_folder, read_json, write_json

NAME = "jaxad.json"
"""Of the record, and of the list of a checkpoint's files with their checksums."""
FORMAT = 1
UNFINISHED = ".saving-"
"""Start of the names of folders, beside checkpoints, in which one is written until it is whole."""

_ENTRY = re.compile(
    r"(config|data|subclasses|calibration|audit|results|results\.part)\.json|train\.jsonl|report/(index|part)\.html"
    r"|\.prepared/|profile/|track/|outcomes/|(checkpoints|training)/[^/]+/|replicates/[1-9][0-9]*/"
    r"|predictions\.(json|csv|parquet)|index\.html|(shards|maps|overlays|masks)/"
)
"""What a run writes; folders end in a slash."""
SAVE = re.compile(r"(\d{1,9})-(\d{1,12})")
"""Name of a training's checkpoint: number of the phase and of its step."""
_WHOLE = (".prepared/", "profile/", "track/", "shards/", "maps/", "overlays/", "masks/")
"""Folders that are ours with all that is in them: other libraries write there, or too many files to
be listed."""
_OUTCOME = re.compile(r"[0-9a-f]{16}\.npz")


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
            try:
                self.write()
            except InputError:  # not remembered: so it is not to be written
                del self._entries[entry]
                raise
        return path

    def drop(self, *parts: str) -> None:
        """Delete a folder that `tree` has named, but for what others put there, and forget it."""
        entry = "/".join(parts) + "/"
        if entry in self._entries:
            _clear_folder(self.folder, entry)
            _drop_empty(self.folder, _plain(self.folder, entry))
            del self._entries[entry]
            self.write()

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
            elif entry.startswith(_OF_VALUE) and os.path.lexists(path):
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
            if entry.endswith("/"):
                foreign = next(_foreign(path, entry), None)
                if foreign is not None:
                    raise _taken(foreign)

    def sweep(self) -> None:
        """Delete what was being written when a run was killed."""
        places = {self.folder}
        for entry in self.entries:
            path = _plain(self.folder, entry)
            places |= {path.parent, path} if entry.endswith("/") else {path.parent}
        for place in places:
            _clear_unfinished(place)

    def clear(self) -> None:
        """Delete what is recorded, and folders that are empty then; all else stays."""
        for entry in reversed(self.entries):
            path = _plain(self.folder, entry)
            if entry.startswith("replicates/"):
                inner = read(path)
                if inner is not None:
                    inner.clear()
                    (path / NAME).unlink()
            elif entry.endswith("/"):
                _clear_folder(self.folder, entry)
            elif not path.is_dir():
                path.unlink(missing_ok=True)
            _clear_unfinished(path.parent)
            _drop_empty(self.folder, path)
        self._entries = {}


def is_whole(checkpoint: Path) -> bool:
    """Whether the folder is a checkpoint that was written to its end: its list comes last."""
    return not checkpoint.name.startswith(UNFINISHED) and (checkpoint / NAME).is_file()


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


_OF_VALUE = ("checkpoints/", "training/", "results", "predictions", "shards/")
"""What took time."""
_MEND = "move it away, or choose another folder"


def _files(folder: Path) -> Iterator[Path]:
    """All below a folder that is no folder itself, or a link."""
    for place, folders, names in os.walk(folder):
        yield from (Path(place) / name for name in names)
        yield from (Path(place) / name for name in folders if (Path(place) / name).is_symlink())


def _foreign(folder: Path, entry: str) -> Iterator[Path]:
    """What lies in a folder of ours and is not ours."""
    *above, kind = entry.rstrip("/").split("/")
    if above and above[-1] in ("checkpoints", "training", "replicates"):
        kind = above[-1]
    if not folder.is_dir() or kind == "replicates" or f"{kind}/" in _WHOLE:
        return
    if kind == "outcomes":
        for path in folder.iterdir():
            if not _OUTCOME.fullmatch(path.name) and not is_temporary(path):
                yield path
        return
    within = [folder]
    if kind == "training":  # checkpoints, one a number of steps
        within = [path for path in folder.iterdir() if not _is_unfinished(path)]
    for path in within:
        if path.is_symlink() or not path.is_dir():
            yield path
            continue
        ours = checkpoint_files(path)
        yield from (one for one in _files(path) if one.relative_to(path).as_posix() not in ours)


def _clear_folder(top: Path, entry: str) -> None:
    """Delete what is ours in a folder, and folders that are empty then."""
    folder = _plain(top, entry)
    if not folder.is_dir():
        return
    if entry in _WHOLE:
        shutil.rmtree(folder, ignore_errors=True)
        return
    _clear_unfinished(folder)
    kept = set(_foreign(folder, entry))
    if not kept:
        # By one step: of what is half deleted nobody could tell whose it is.
        away = folder.with_name(f"{UNFINISHED}{secrets.token_hex(8)}")
        folder.rename(away)
        shutil.rmtree(away, ignore_errors=True)
        return
    # For the same reason lists go last.
    for found in sorted(_files(folder), key=lambda path: path.name == NAME):
        if found not in kept:
            found.unlink()
    for place, _, _ in os.walk(folder, topdown=False):
        if not any(Path(place).iterdir()):
            Path(place).rmdir()


def check_ours(folder: Path) -> None:
    """See that a checkpoint that is to be replaced has no file of somebody else.

    Raises:
        InputError: It has.
    """
    try:
        ours = checkpoint_files(folder)
    except InputError:  # what is damaged is replaced
        return
    foreign = [p for p in _files(folder) if p.relative_to(folder).as_posix() not in ours]
    if ours and foreign:
        raise _taken(foreign[0])


def clear_checkpoint(folder: Path) -> None:
    """Delete a checkpoint, but for what others put there."""
    _clear_folder(folder.parent, f"{folder.name}/")


def _clear_unfinished(folder: Path) -> None:
    """Delete what saves left that were killed."""
    if folder.is_dir():
        for path in folder.iterdir():
            if _is_unfinished(path):
                shutil.rmtree(path, ignore_errors=True)
            elif is_temporary(path) and not path.is_symlink():
                path.unlink()


def _is_unfinished(path: Path) -> bool:
    name = re.fullmatch(re.escape(UNFINISHED) + r"([0-9a-f]{16}|features)", path.name)
    return name is not None and path.is_dir() and not path.is_symlink()


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
    mend = "choose another folder"
    found: Any = read_json(path, "the record of a work directory", mend)
    wrote = found.get("wrote") if isinstance(found, dict) else None
    if not isinstance(wrote, list) or found.get("format") != FORMAT:
        raise InputError(f"{path} is damaged or of another jaxad: {mend}")
    for entry in wrote:
        parts = entry.split("/") if isinstance(entry, str) else []
        if not parts or not _ENTRY.fullmatch(entry) or {".", ".."} & set(parts) or "\0" in entry:
            raise InputError(f"{path} names {entry!r}, which no run writes: {mend}")
    return Record(folder, wrote)


def usable(folder: Path) -> Path:
    """Make a folder for a work directory, if it is not there.

    Raises:
        InputError: It can not be made, or has a name that checkpoints can not be written to.
    """
    try:
        os.fspath(folder.absolute()).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{folder.absolute()} has bytes in its name that are no UTF-8: choose another folder"
        ) from error
    return make_folder(folder)


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
    usable(folder)
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
