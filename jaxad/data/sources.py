"""Photos that a user names: files, folders, patterns and lists, one at a time, in a fixed order.

Millions of names take no memory: a folder's names are sorted in parts that lie on disk. Within a
folder files come first, then the folders below it. Links are followed, for the user names the
place; a folder that a link leads to is entered once, so that links in a circle end.
"""

from __future__ import annotations

import errno
import fnmatch
import glob
import heapq
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple

from jaxad.data.images import SUFFIXES
from jaxad.errors import InputError

STANDARD_INPUT = "-"
_PART = 100_000
"""Names that are sorted in memory."""


class Photo(NamedTuple):
    """One photo of a source."""

    path: str
    """As the user named it, below the folder that was named."""
    below: str
    """Its path within that folder; a file's name; for a list and a pattern, the whole path."""


class Sources:
    """What a user has named. It can be walked as often as wanted, and gives the same order."""

    def __init__(
        self, names: Sequence[str], *, listed: IO[bytes] | None = None, but: Path | None = None
    ) -> None:
        """See that all is there. A list is read to its end, onto the disk.

        Args:
            names: Files, folders (with all below them), patterns (`*`, `?`, `[...]`, `**`), and "-"
                for `listed`.
            listed: One path a line (or ended by NUL bytes, as `find -print0` does).
            but: A folder that is left out, such as that of results.

        Raises:
            InputError: Nothing is named, or something that is not there.
        """
        if not names:
            raise InputError("name photos: files, folders, patterns, or - for a list")
        self._names = tuple(names)
        self._list: IO[bytes] | None = None
        self._but = but
        for name in names:
            if name == STANDARD_INPUT:
                if listed is None or names.count(STANDARD_INPUT) > 1:
                    raise InputError("the list of standard input can be named once: - is enough")
                self._list = _kept(listed)
            elif not _exists(name) and not glob.has_magic(name):
                raise InputError(f"{name}: no such file or folder")

    @property
    def is_one_folder(self) -> bool:
        """Whether paths within it name photos uniquely."""
        return len(self._names) == 1 and Path(self._names[0]).is_dir()

    def __iter__(self) -> Iterator[Photo]:
        """All photos, in order.

        Raises:
            InputError: A folder can not be read; a folder or pattern has no photo.
        """
        for name in self._names:
            if name == STANDARD_INPUT:
                yield from self._of_list()
            elif Path(name).is_dir():
                yield from _some(self._of_folder(name), f"{name} holds no photo ({_KINDS})")
            elif _exists(name):
                yield Photo(name, Path(name).name)
            else:
                yield from _some(self._of_pattern(name), f"no photo is named like {name}")

    def _of_list(self) -> Iterator[Photo]:
        assert self._list is not None
        for line in _lines(self._list):
            yield Photo(line, line)

    def _of_folder(self, folder: str) -> Iterator[Photo]:
        for path in _walk(folder, self._but, [], set()):
            yield Photo(path, path[len(folder) :].lstrip("/"))

    def _of_pattern(self, pattern: str) -> Iterator[Photo]:
        start = "/" if pattern.startswith("/") else ""
        parts = [part for part in pattern.split("/") if part]
        # Folders below a `**` are looked into anyway.
        for path in _matching(start, parts, self._but, folders="**" not in parts[:-1]):
            if Path(path).is_dir():
                yield from (Photo(p.path, p.path) for p in self._of_folder(path))
            else:
                yield Photo(path, path)


_KINDS = ", ".join(sorted(SUFFIXES))


def is_photo(name: str) -> bool:
    """Whether a file in a folder is taken for a photo: by its ending, hidden ones are not."""
    return not name.startswith(".") and name[name.rfind(".") :].lower() in SUFFIXES


def check_regular(path: str) -> None:
    """See that a path is one of a plain file: opening a pipe would wait for ever.

    Raises:
        InputError: It is not, or is not there.
    """
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: can not be read ({told})") from None
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: no plain file")


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _some(photos: Iterator[Photo], otherwise: str) -> Iterator[Photo]:
    first = next(photos, None)
    if first is None:
        raise InputError(otherwise)
    yield first
    yield from photos


def _walk(
    folder: str, but: Path | None, above: list[tuple[int, int]], entered: set[tuple[int, int]]
) -> Iterator[str]:
    """All photos below a folder; `above` are those that it lies in, `entered` those of links."""
    here = _identity(folder)
    if here in above:
        return
    if len(above) > _DEEPEST:
        raise InputError(f"{folder}: more than {_DEEPEST} folders in each other: name inner ones")
    with ExitStack() as kept:
        names = _sorted_names(folder, kept, folders=False)
        yield from (_joined(folder, name) for name in names)
    with ExitStack() as kept:
        for name in _sorted_names(folder, kept, folders=True, but=but):
            path = _joined(folder, name)
            if Path(path).is_symlink():
                target = _identity(path)
                if target in entered:
                    continue
                entered.add(target)
            yield from _walk(path, but, [*above, here], entered)


_DEEPEST = 200


def _matching(
    start: str, parts: Sequence[str], but: Path | None, *, folders: bool
) -> Iterator[str]:
    """What a pattern names, part after part, sorted; with `folders`, these too."""
    if not parts:
        if _exists(start):
            yield start
        return
    part, rest, place = parts[0], parts[1:], start or os.curdir
    if part == "**" and not rest:
        yield place
    elif not glob.has_magic(part):
        yield from _matching(_joined(start, part), rest, but, folders=folders)
    elif not Path(place).is_dir():
        return
    elif part == "**":
        if len(Path(start).parts) > _DEEPEST:
            raise InputError(f"{start}: more than {_DEEPEST} folders in each other")
        yield from _matching(start, rest, but, folders=folders)
        with ExitStack() as kept:
            for name in _sorted_names(place, kept, folders=True, but=but):
                path = _joined(start, name)
                if not Path(path).is_symlink():  # as a shell does: links could go in a circle
                    yield from _matching(path, parts, but, folders=folders)
    else:
        for among_folders in (*(() if rest else (False,)), *((True,) if rest or folders else ())):
            with ExitStack() as kept:
                for name in _sorted_names(
                    place, kept, folders=among_folders, but=but, pattern=part
                ):
                    yield from _matching(_joined(start, name), rest, but, folders=folders)


def _sorted_names(
    folder: str,
    kept: ExitStack,
    *,
    folders: bool,
    but: Path | None = None,
    pattern: str = "*",
) -> Iterator[str]:
    """The photos (or the folders) directly in a folder that a pattern matches, sorted."""
    avoid = _identity(os.fspath(but)) if but is not None and but.exists() else None

    def wanted(entry: os.DirEntry[str]) -> bool:
        if not fnmatch.fnmatchcase(entry.name, pattern):
            return False
        if not folders:  # what is no plain file is told of when it is its turn
            return is_photo(entry.name) and not _is_folder(entry)
        hidden = entry.name.startswith(".") and not pattern.startswith(".")
        return not hidden and _is_folder(entry) and _identity(entry.path) != avoid

    parts: list[IO[bytes]] = []
    names: list[bytes] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if wanted(entry):
                    # A line each: a name can have a line break, but no slash.
                    names.append(os.fsencode(entry.name).replace(b"\n", b"/") + b"\n")
                if len(names) == _PART:
                    parts.append(kept.enter_context(tempfile.TemporaryFile()))  # noqa: SIM115
                    parts[-1].writelines(sorted(names))
                    parts[-1].seek(0)
                    names = []
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # of temporary files
            raise
        raise InputError(f"{folder}: can not be read ({error.strerror})") from error
    for line in heapq.merge(sorted(names), *parts):
        yield os.fsdecode(line[:-1].replace(b"/", b"\n"))


def _joined(folder: str, name: str) -> str:
    return f"{folder}{name}" if folder.endswith("/") or not folder else f"{folder}/{name}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: str) -> tuple[int, int]:
    try:
        found = Path(folder).stat()
    except OSError as error:
        raise InputError(f"{folder}: can not be read ({error.strerror})") from error
    return found.st_dev, found.st_ino


def _kept(listed: IO[bytes]) -> IO[bytes]:
    kept = tempfile.TemporaryFile()  # noqa: SIM115
    while block := listed.read(1 << 20):
        kept.write(block)
    return kept


def _lines(file: IO[bytes]) -> Iterator[str]:
    """The paths of a list, which NUL bytes end if there is one in its first block."""
    file.seek(0)
    block = file.read(_LONGEST)
    nul = b"\0" in block
    rest = b""
    while True:
        *whole, rest = (rest + block).split(b"\0" if nul else b"\n")
        if len(rest) > _LONGEST:
            raise InputError("the list has a line that is longer than any path: one path a line")
        if not block:  # the last line may have no end
            whole = [rest]
        paths = whole if nul else [line.removesuffix(b"\r") for line in whole]
        yield from (os.fsdecode(path) for path in paths if path)
        if not block:
            return
        block = file.read(_LONGEST)


_LONGEST = 1 << 16
