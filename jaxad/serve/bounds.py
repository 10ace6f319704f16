"""What a server puts up with, and a body that is read within it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

BODY_SECONDS = 30.0
"""In which a body has to be there."""
HELD = 8
"""Bodies of full size that are held at once; so many bytes may be of many smaller ones."""
TRUNCATED = "jaxad.truncated"
"""In a request's scope: the client ended its body early."""


class Bounds(NamedTuple):
    """What a user chooses."""

    max_body: int = 32 << 20
    """Bytes of a photo's file."""
    queue: int = 256
    """Photos that are read, wait or are scored; more are refused."""


class Room:
    """How much is held and waits."""

    def __init__(self, bounds: Bounds) -> None:
        """Begin with nothing."""
        self.bounds = bounds
        self.photos = 0
        """Admitted, and not yet answered."""
        self._bytes = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count one more photo.

        Raises:
            HTTPException: 503, there are too many.
        """
        self.check()
        self.photos += 1
        try:
            yield
        finally:
            self.photos -= 1

    def check(self) -> None:
        """See that one more photo is admitted.

        Raises:
            HTTPException: 503, there are too many.
        """
        if self.photos >= self.bounds.queue:
            raise busy(f"{self.photos} photos wait already")

    @contextmanager
    def holding(self) -> Iterator[bytearray]:
        """A body, which counts until it is left."""
        body = bytearray()
        try:
            yield body
        finally:
            self._bytes -= len(body)

    def add(self, body: bytearray, chunk: bytes) -> None:
        """Let a body that is held grow.

        Raises:
            HTTPException: 413, it is too large; 503, all of them are.
        """
        if len(body) + len(chunk) > self.bounds.max_body:
            raise _too_large(self.bounds.max_body)
        if self._bytes + len(chunk) > HELD * self.bounds.max_body:
            raise busy("photos of too many bytes wait already")
        body += chunk
        self._bytes += len(chunk)


async def read_body(request: Request, room: Room, body: bytearray) -> None:
    """Read a request's body, at most as much as is allowed.

    Args:
        request: The request.
        room: Where it counts.
        body: What `room.holding` gave; it is filled.

    Raises:
        HTTPException: 4xx, the body is too large, slow, empty or cut off; 503, there is no room.
    """
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated[:20]) > room.bounds.max_body:
        raise _too_large(room.bounds.max_body)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                room.add(body, chunk)
    except TimeoutError:
        raise HTTPException(408, f"the photo was not there in {BODY_SECONDS:g} s") from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection was closed within the body") from None
    if request.scope.get(TRUNCATED):
        raise HTTPException(400, f"the body ended early, after {len(body)} bytes")
    if not body:
        raise HTTPException(400, "the body is empty: send the photo's file as it is")


def busy(why: str) -> HTTPException:
    """503, to be tried again."""
    return HTTPException(503, f"{why}: try again", {"Retry-After": "1"})


def _too_large(most: int) -> HTTPException:
    return HTTPException(413, f"the photo's file is larger than {most} bytes (--max-body)")
