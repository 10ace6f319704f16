"""Photos that wait for a detector, and the one thread that scores as many at once as pays.

There are two programs, of one photo and of a batch, compiled and timed before the first photo
comes. What waits is scored by the first, one after the other, where that takes less time than a
batch that is filled up.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from jaxad.runs.models import Judge, Score
from jaxad.runs.rows import Decoded, Judged, judged, start

_ROUNDS = 3
"""That a program is timed for."""


class ClosedError(Exception):
    """The server stops: what waits is not scored any more."""


class Scored(NamedTuple):
    """A photo's row and map, and how many photos were scored with it."""

    found: Judged
    batch: int


class _Program(NamedTuple):
    """What scores so many photos at once."""

    judge: Judge
    score: Score
    seconds: float
    """That a call takes."""


class Batcher:
    """Scores photos that tasks of one event loop wait for."""

    def __init__(self, judge: Judge, observe: Callable[[int], None] = lambda photos: None) -> None:
        """Compile and time the programs; takes seconds.

        Args:
            judge: Who scores, up to `judge.batch_size` photos at once.
            observe: Called in the event loop with the number of photos scored together.

        Raises:
            InputError: As `judge.compiled`.
        """
        self._many = _program(judge)
        alone = dataclasses.replace(judge, batch_size=1)
        self._one = self._many if judge.batch_size == 1 else _program(alone)
        self._observe = observe
        self._waiting: deque[tuple[Decoded, asyncio.Future[Scored]]] = deque()
        self._some = asyncio.Event()
        self._closed = False
        self.failed = False
        """Whether the last photos could not be scored, by a fault that is not theirs."""

    def __len__(self) -> int:
        """How many photos wait."""
        return len(self._waiting)

    async def score(self, photo: Decoded) -> Scored:
        """Score a photo that could be read.

        Raises:
            ClosedError: The server stops.
        """
        if self._closed:
            raise ClosedError
        future: asyncio.Future[Scored] = asyncio.get_running_loop().create_future()
        self._waiting.append((photo, future))
        self._some.set()
        return await future

    async def run(self) -> None:
        """Score what waits, until cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "scoring") as thread:
            while True:
                await self._some.wait()
                batch = self._next()
                if not self._waiting:
                    self._some.clear()
                if not batch:
                    continue
                photos = [photo for photo, _ in batch]
                try:
                    found = await loop.run_in_executor(thread, self._scored, photos)
                except Exception as error:
                    self.failed = True
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                    continue
                self.failed = False
                for (_, future), one in zip(batch, found):
                    if not future.done():
                        future.set_result(one)

    def close(self) -> None:
        """Refuse what waits, and what comes."""
        self._closed = True
        while self._waiting:
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(ClosedError())

    def _next(self) -> list[tuple[Decoded, asyncio.Future[Scored]]]:
        """The photos that have waited longest and are still waited for."""
        found: list[tuple[Decoded, asyncio.Future[Scored]]] = []
        while self._waiting and len(found) < self._many.judge.batch_size:
            one = self._waiting.popleft()
            if not one[1].done():
                found.append(one)
        if len(found) * self._one.seconds < self._many.seconds:
            # One at a time: what comes meanwhile may make the rest a batch that pays.
            self._waiting.extendleft(reversed(found[1:]))
            found = found[:1]
        if found:
            self._observe(len(found))
        return found

    def _scored(self, photos: Sequence[Decoded]) -> list[Scored]:
        judge, score, _ = self._one if len(photos) == 1 else self._many
        found = judged(photos, start(photos, score, judge), judge)
        return [Scored(one, len(photos)) for one in found]


def _program(judge: Judge) -> _Program:
    score = judge.compiled(judge.batch_size)
    blank = np.zeros((judge.batch_size, *judge.size, 3), np.uint8)
    took = []
    for _ in range(1 + _ROUNDS):  # the first one may compile
        begun = time.monotonic()
        np.asarray(score(blank).image)
        took.append(time.monotonic() - begun)
    return _Program(judge, score, min(took[1:]))
