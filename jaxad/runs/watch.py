"""Scoring what arrives in a folder, until stopped.

A photo is taken when it is complete: when who wrote it closes it, or moves or links it into the
folder. Where the system tells nothing of that (network disks, no inotify), the folder is looked at
once a second, and a photo is taken when its size and time stay as they are.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxad.core import InputError
from jaxad.data.sources import Photo, is_photo
from jaxad.runs.models import Judge
from jaxad.runs.predict import new_drift
from jaxad.runs.rows import decode, judged, start
from jaxad.runs.shards import Row

EVERY = 1.0
"""Seconds between two looks at a folder."""
WAIT = 0.2
"""Seconds between two looks for a signal."""
SETTLE = 10.0
"""Seconds after which a file counts as complete whose end the system did not tell: one that came
together with its folder. Where the folder is looked at: `EVERY`."""
_KEPT = 1000
"""Photos that are remembered."""


class Arrival(NamedTuple):
    """A photo that is complete."""

    path: str
    time: float
    """When that was told, by `time.monotonic`."""


class Arrivals:
    """What arrives: told by threads, taken by the loop that scores."""

    def __init__(self, settle: float) -> None:
        """Begin.

        Args:
            settle: Seconds for which a file stays as it is that counts as complete without a word.
        """
        self.settle = settle
        self._told: queue.SimpleQueue[tuple[str, float, bool]] = queue.SimpleQueue()
        self._growing: dict[str, tuple[_Stamp, float]] = {}
        self._taken: dict[str, _Stamp] = {}

    def tell(self, name: str | bytes, *, complete: bool) -> None:
        """Say that a file is there; `complete`: that nobody writes to it any more."""
        path = os.fsdecode(name)
        if is_photo(Path(path).name) and not Path(path).is_dir():
            self._told.put((path, time.monotonic(), complete))

    def take(self, most: int) -> list[Arrival]:
        """Photos that are complete, at most so many; none if there is none for `WAIT` seconds."""
        found: list[Arrival] = []
        wait = WAIT
        try:
            while len(found) < most:
                path, when, complete = self._told.get(timeout=wait)
                if not complete:
                    self._growing[path] = _stamp(path), when
                    continue
                wait = 0
                self._growing.pop(path, None)
                self._add(found, path, when)
        except queue.Empty:
            pass
        now = time.monotonic()
        for path, (stamp, since) in [*self._growing.items()]:
            if (is_now := _stamp(path)) != stamp:
                self._growing[path] = is_now, now
            elif now - since >= self.settle and len(found) < most:
                del self._growing[path]
                self._add(found, path, now)
        return found

    def _add(self, found: list[Arrival], path: str, when: float) -> None:
        """Take a photo, unless nothing has changed since it was taken last."""
        stamp = _stamp(path)
        if self._taken.pop(path, None) != stamp or stamp is None:
            found.append(Arrival(path, when))
        self._taken[path] = stamp
        if len(self._taken) > _KEPT:
            del self._taken[next(iter(self._taken))]


_Stamp = tuple[int, int, int] | None


def _stamp(path: str) -> _Stamp:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def watch(
    folder: Path,
    judge: Judge,
    emit: Callable[[dict[str, Any]], None],
    *,
    poll: bool = False,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Score every photo that arrives in a folder or below it; ends when `check` raises.

    Args:
        folder: The folder; what is there already is not scored.
        judge: Who scores. Up to `judge.batch_size` photos that wait are scored together.
        emit: Takes the row of each photo, with `seconds`, from when it was complete to now.
        poll: Whether to look at the folder instead of being told by the system.
        check: Called every `WAIT` seconds; may raise `errors.Stopped`.

    Raises:
        InputError: No such folder, or it is gone.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: make it first")
    arrivals = Arrivals(EVERY if poll else SETTLE)
    drift, told = new_drift(judge), False
    took: list[float] = []
    with _observed(folder, arrivals, poll=poll):
        score = judge.compiled(judge.batch_size)
        blank = np.zeros((judge.batch_size, *judge.size, 3), np.uint8)
        np.asarray(score(blank).image)  # what is slow the first time
        print(f"watching {folder}", file=sys.stderr, flush=True)
        try:
            while True:
                batch = arrivals.take(judge.batch_size)
                check()
                if not batch and not folder.is_dir():
                    raise InputError(f"{folder} is gone: make it again, then watch it")
                if not batch:
                    continue
                decoded = [decode(Photo(one.path, one.path), judge) for one in batch]
                for arrival, found in zip(
                    batch, judged(decoded, start(decoded, score, judge), judge)
                ):
                    row, seconds = found.row, time.monotonic() - arrival.time
                    took = [*took[1 - _KEPT :], seconds]
                    emit({**_told(row), "seconds": round(seconds, 4)})
                    if drift is not None and row.decision == "good":
                        drift.add(np.asarray([row.score], np.float32), np.asarray([row.p_value]))
                if drift is not None and drift.latest().drifted != told:
                    told = not told
                    print(drift.latest().text(), file=sys.stderr, flush=True)
        finally:
            if took:
                half, most = np.quantile(took, [0.5, 0.95])
                print(
                    f"the last {len(took)} photos took {1000 * half:.0f} ms from complete to told "
                    f"(median; 95 %: {1000 * most:.0f} ms)",
                    file=sys.stderr,
                )


def _told(row: Row) -> dict[str, Any]:
    return {**row._asdict(), "regions": json.loads(row.regions)}


@contextmanager
def _observed(folder: Path, arrivals: Arrivals, *, poll: bool) -> Iterator[None]:
    """Tell what arrives."""
    try:
        from watchdog.events import FileSystemEvent, FileSystemEventHandler
        from watchdog.observers import Observer
        from watchdog.observers.polling import PollingObserver
    except ImportError as error:
        raise InputError(
            "--watch needs the package watchdog: pip install 'jaxad[watch]'"
        ) from error

    class Handler(FileSystemEventHandler):
        """Called in a thread of its own."""

        def on_closed(self, event: FileSystemEvent) -> None:
            arrivals.tell(event.src_path, complete=True)

        def on_moved(self, event: FileSystemEvent) -> None:
            arrivals.tell(event.dest_path, complete=True)

        def on_created(self, event: FileSystemEvent) -> None:
            arrivals.tell(event.src_path, complete=_is_linked(event.src_path))

        def on_modified(self, event: FileSystemEvent) -> None:
            if poll:
                arrivals.tell(event.src_path, complete=False)

    if not poll:
        observer: Any = Observer()
        observer.schedule(Handler(), os.fspath(folder), recursive=True)
        try:
            observer.start()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EMFILE, errno.ENOSYS):
                raise InputError(f"{folder} can not be watched ({error.strerror})") from error
            print(
                f"the system watches no more folders ({error.strerror}): looking at {folder} every "
                f"{EVERY:.0f} s instead",
                file=sys.stderr,
            )
            poll, arrivals.settle = True, EVERY
    if poll:
        observer = PollingObserver(timeout=EVERY)
        observer.schedule(Handler(), os.fspath(folder), recursive=True)
        observer.start()
    try:
        yield
    finally:
        observer.stop()
        observer.join()


def _is_linked(name: str | bytes) -> bool:
    """Whether a new name is one of a file that was there: nobody writes and closes it then."""
    try:
        path = Path(os.fsdecode(name))
        return path.is_symlink() or path.stat().st_nlink > 1
    except OSError:
        return False
