"""Photos that wait are scored together where that pays, and each gets its own score."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from serving import SIZE, judge

from jaxad.data.sources import Photo
from jaxad.runs.rows import Decoded
from jaxad.serve.batching import Batcher, ClosedError, Scored


def decoded(red: int) -> Decoded:
    pixels = np.full((*SIZE, 3), red, np.uint8)
    return Decoded(Photo("the photo", ""), pixels, SIZE, "")


async def scored(batcher: Batcher, reds: list[int]) -> list[Scored | BaseException]:
    running = asyncio.create_task(batcher.run())
    waiting = [asyncio.create_task(batcher.score(decoded(red))) for red in reds]
    every = asyncio.gather(*waiting, return_exceptions=True)
    found = await asyncio.wait_for(every, 20)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return found


def results(found: list[Scored | BaseException]) -> list[tuple[int, int]]:
    """(red, batch) of each."""
    assert all(isinstance(one, Scored) for one in found), found
    return [
        (round(255 * one.found.row.score), one.batch)  # type: ignore[union-attr, operator]
        for one in found
    ]


def test_what_waits_is_scored_together() -> None:
    seen: list[int] = []
    same = Batcher(judge(before=lambda n: time.sleep(0.01)), seen.append)
    found = results(asyncio.run(scored(same, list(range(10)))))
    assert found == [(red, 4) for red in range(8)] + [(8, 2), (9, 2)]
    assert seen == [4, 4, 2]


def test_few_photos_are_scored_one_by_one_where_a_batch_takes_longer() -> None:
    seen: list[int] = []
    slow = Batcher(judge(before=lambda n: time.sleep(0.01 if n == 1 else 0.025)), seen.append)
    found = results(asyncio.run(scored(slow, list(range(6)))))
    assert [red for red, _ in found] == list(range(6))
    assert seen == [4, 1, 1]


def test_a_fault_is_told_to_those_who_wait_and_the_next_are_scored() -> None:
    faults = [False]

    def before(n: int) -> None:
        if faults[0]:
            faults[0] = False
            raise RuntimeError("out of memory")

    async def twice(batcher: Batcher) -> None:
        faults[0] = True
        found = await scored(batcher, [1])
        assert isinstance(found[0], RuntimeError)
        assert batcher.failed
        assert [red for red, _ in results(await scored(batcher, [7]))] == [7]
        assert not batcher.failed

    asyncio.run(twice(Batcher(judge(before=before))))


def test_a_closed_one_refuses_what_waits_and_what_comes() -> None:
    async def closing() -> None:
        batcher = Batcher(judge())
        waiting = [asyncio.create_task(batcher.score(decoded(n))) for n in range(3)]
        await asyncio.sleep(0)
        assert len(batcher) == 3
        batcher.close()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(one, ClosedError) for one in found)
        with pytest.raises(ClosedError):
            await batcher.score(decoded(1))

    asyncio.run(closing())
