"""One process at a time in a work directory.

The operating system's lock on `jaxad.lock` says who is there, and ends with the process whatever
kills it. Some shared disks do not carry locks from host to host. So the file also says which
process on which host has it, and is touched every few seconds: a process of another host waits to
see whether it is. No clock is compared: those of two hosts differ.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxad.errors import InputError
from jaxad.files import refusal

NAME = "jaxad.lock"
TOUCHED = 10.0
"""Seconds between two signs of life."""
WATCHED = 45.0
"""Seconds without one after which a process counts as dead that the lock says nothing of."""


@contextmanager
def locked(
    folder: Path, *, watch: float = WATCHED, check: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Have a work directory for oneself.

    Args:
        folder: Is there.
        watch: Seconds to look for signs of life of a process of another host.
        check: Called while that is waited for; may raise.

    Raises:
        InputError: Another process has it, or the lock can not be written.
    """
    path = folder / NAME
    file, carried = _open(path)
    try:
        before = _content(file)
        if before and not (carried and before.get("host") == platform.node()):
            _see_that_it_is_dead(path, file, before, watch, check)
        elif before:
            print(f"{folder}: process {before.get('pid')} ended without a word", file=sys.stderr)
        about = {"pid": os.getpid(), "host": platform.node(), "started": int(time.time())}
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, (json.dumps(about) + "\n").encode(), 0)
        except OSError as error:
            raise refusal("write", path, error) from error
        over = threading.Event()
        thread = threading.Thread(target=_stay_alive, args=(file, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            path.unlink(missing_ok=True)
    finally:
        os.close(file)


def holder(folder: Path) -> dict[str, Any] | None:
    """Who has a work directory now: `pid`, `host` and `started`; None if nobody on this host has.

    What a process of another host has left is believed, if the disk carries no locks.
    """
    try:
        file = os.open(folder / NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        about = _content(file)
        if about is None or about.get("host") != platform.node():
            return about
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return about
    finally:
        os.close(file)
    return None


def _open(path: Path) -> tuple[int, bool]:
    """Open the file that has this name now, and lock it, if the disk carries locks."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        try:
            file = os.open(path, flags, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise InputError(
                    f"{path} is a link, which no jaxad run has made: remove it"
                ) from error
            raise refusal("write", path, error) from error
        carried = True
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise InputError(f"{path} is no plain file: remove it")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    raise _taken(path.parent, _content(file) or {}) from error
                carried = False
        except InputError:
            os.close(file)
            raise
        # Who had the lock before may have deleted the file: then it locks nobody out.
        try:
            if os.path.samestat(os.fstat(file), path.stat()):
                return file, carried
        except FileNotFoundError:
            pass
        os.close(file)


def _content(file: int) -> dict[str, Any] | None:
    """What the file says; None where it is empty or says nothing that can be understood."""
    try:
        found = json.loads(os.pread(file, 4096, 0))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _see_that_it_is_dead(
    path: Path, file: int, before: dict[str, Any], watch: float, check: Callable[[], None]
) -> None:
    print(
        f"{path.parent}: process {before.get('pid')} on {before.get('host')} had it; looking for "
        f"signs of life ({watch:.0f} s)",
        file=sys.stderr,
    )
    seen = os.fstat(file).st_mtime_ns
    end = time.monotonic() + watch
    while time.monotonic() < end:
        check()
        time.sleep(min(1.0, watch / 4))
        if os.fstat(file).st_mtime_ns != seen or _content(file) != before:
            raise _taken(path.parent, before)


def _stay_alive(file: int, over: threading.Event) -> None:
    while not over.wait(TOUCHED):
        try:
            os.utime(file)
        except OSError:  # a disk that is away comes back, or the next save says so
            continue


def _taken(folder: Path, about: dict[str, Any]) -> InputError:
    return InputError(
        f"process {about.get('pid', '?')} on {about.get('host', '?')} works in {folder}: wait for "
        "it, or choose another folder"
    )
