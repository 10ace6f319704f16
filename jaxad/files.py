"""Small files written whole or not at all, paths that stay in a folder, careful reading of JSON.

A work directory may come from a stranger. So nothing here follows a link when it writes, nothing
that stands in a file can name a place outside its folder, and whatever is wrong with a file is one
`InputError`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from jaxad.errors import InputError

MAX_JSON = 16 << 20
"""Bytes of a JSON file that is read; a results.json of 10,000 categories has 4 million."""

_MENDS = {
    errno.ENOSPC: "free space on its disk, then run again",
    errno.EDQUOT: "free space below your quota, then run again",
    errno.EFBIG: "raise the limit on the size of files, then run again",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder on a disk that can be written",
    errno.EISDIR: "a folder of this name is in the way, move it away",
    errno.ENOTEMPTY: "a folder of this name is in the way, move it away",
    errno.ENOTDIR: "a file stands where a folder is needed, choose another folder",
    errno.EEXIST: "a file stands where a folder is needed, choose another folder",
    errno.ENOENT: "make the folder first",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "links go in a circle, choose another folder",
}


@contextmanager
def written(path: str | os.PathLike[str], *, by: Path | None = None) -> Iterator[BinaryIO]:
    """Write a file whole or not at all, by and by.

    The bytes go to a new file of a name that nobody can guess; it is then renamed. A reader never
    meets half a file. A link at `path` is replaced and not followed.

    Args:
        path: The file; its folder has to exist.
        by: Folder of the new file, on the same disk; None: that of `path`.

    Raises:
        InputError: The file can not be written (full disk, no permission, a folder of that name):
            the old file, if any, is as it was, and no temporary file is left.
    """
    path = Path(path)
    # See `is_temporary`.
    temporary = (path.parent if by is None else by) / f".jaxad-{secrets.token_hex(8)}.tmp"
    # O_EXCL: fails where anything has this name, a link included. Mode: as the umask says.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
            try:
                yield file
                file.flush()  # a full disk is noticed here, before the rename
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise refusal("write", path, error) from error


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all; see `written`.

    Args:
        path: The file; its folder has to exist.
        data: Its content.

    Raises:
        InputError: See `written`.
    """
    with written(path) as file:
        file.write(data)


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hex, read in blocks."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_temporary(path: Path) -> bool:
    """Whether it has the name of a file that `write_bytes` was writing when it was killed."""
    return re.fullmatch(r"\.jaxad-[0-9a-f]{16}\.tmp", path.name) is not None


def write_text(path: str | os.PathLike[str], text: str) -> None:
    r"""Write UTF-8 as `write_bytes` does; bytes of file names that are no text become `\udcXX`."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a value as indented JSON, in ASCII, as `write_bytes` does."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and those above it, where they are missing.

    Raises:
        InputError: It can not be made, or a file is in its place.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise refusal("make the folder", path, error) from error
    return path


def confined(root: str | os.PathLike[str], *parts: str) -> Path:
    """The path of `parts` below `root`, if it stays there.

    Args:
        root: A folder; it may itself be a link, and need not exist.
        parts: Names below it, which may come from a stranger's file.

    Returns:
        `root / parts`, not resolved.

    Raises:
        InputError: A part is absolute or goes up (`..`), or a link on the way leads out of `root`.
    """
    root = Path(root)
    path = root
    for part in parts:
        pure = Path(part)
        if pure.is_absolute() or pure.drive or ".." in pure.parts or "\0" in part:
            raise InputError(f"{part!r} is no name of something in {root}: use a plain name")
        path = path / pure
    try:
        outside = not path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
        raise InputError(
            f"{path} can not be followed ({_reason(error)}): remove the link"
        ) from error
    if outside:
        raise InputError(f"{path} is a link that leads out of {root}: remove it")
    return path


def read_json(
    path: str | os.PathLike[str],
    what: str = "the JSON file",
    mend: str = "bring back an undamaged copy, or have it written anew",
) -> Any:
    """Read a JSON file that anybody may have written.

    Args:
        path: A regular file of at most `MAX_JSON` bytes, in UTF-8.
        what: What the file is, in words; begins the error's line.
        mend: What a user can do; ends it.

    Returns:
        The value. Its types are the caller's to check.

    Raises:
        InputError: Missing, too large, no regular file, no UTF-8, no JSON, or nested too deep.
    """
    try:
        path = Path(path)
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise ValueError("not a regular file")
        with path.open("rb") as file:
            data = file.read(MAX_JSON + 1)
        if len(data) > MAX_JSON:
            raise ValueError(f"more than {MAX_JSON} bytes")
        return json.loads(data.decode("utf-8"))
    except RecursionError as error:
        raise InputError(f"{what} {path} can not be read (nested too deep): {mend}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{what} {path} can not be read ({_reason(error)}): {mend}") from error


def refusal(verb: str, path: Path, error: OSError | ValueError) -> InputError:
    """Say in one line that a path can not be used so, why, and what helps."""
    mend = _MENDS.get(getattr(error, "errno", None) or 0, "choose another place")
    return InputError(f"can not {verb} {path} ({_reason(error)}): {mend}")


def _reason(error: Exception) -> str:
    """An operating system's message without number and path, which stand in the line already."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
