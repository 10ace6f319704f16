"""The serving job: a socket, the programs, and uvicorn until a signal comes."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from jaxad.core import InputError
from jaxad.data.pipeline import decoding_threads
from jaxad.runs.models import Judge
from jaxad.runs.stopping import SIGNALS
from jaxad.serve.app import PATHS, make_app
from jaxad.serve.batching import Batcher
from jaxad.serve.bounds import TRUNCATED, Bounds, Room
from jaxad.serve.gate import Gate, is_known, log
from jaxad.serve.numbers import Numbers

HEADERS = 16 << 10
"""Bytes of a request's line and headers."""
IDLE = 10.0
"""Seconds in which a connection has to bring a request, or take some of an answer."""
SPARE = 256
"""Connections beside those of the queue."""
FINISH = 5.0
"""Seconds in which photos that wait are still scored after a signal; the rest is refused."""


class Server(uvicorn.Server):
    """Answers on a socket of its own until it is stopped."""

    def __init__(
        self,
        judge: Judge,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        bounds: Bounds | None = None,
        hosts: Collection[str] = (),
    ) -> None:
        """Take the port, then compile.

        Args:
            judge: Who judges.
            host: Name or address to listen on.
            port: 0 takes a free one.
            bounds: What it puts up with; None: the usual.
            hosts: Names that it goes by in Host headers. On a loopback address it goes by no
                others than these, localhost and such addresses; elsewhere by any if none is named.

        Raises:
            InputError: The port is taken, no such host, bounds that make no sense, or as
                `judge.compiled`.
        """
        bounds = _checked(bounds or Bounds())
        self._socket = _bound(host, port)
        address, self.port = self._socket.getsockname()[:2]
        self.url = f"http://{f'[{address}]' if ':' in address else address}:{self.port}"
        names: set[str] | None = {name.lower() for name in hosts}
        if is_known(self.url.removeprefix("http://"), ()):
            names |= {"localhost"}  # type: ignore[operator]
        self._judge, room, numbers = judge, Room(bounds), Numbers(judge)
        try:
            self._batcher = Batcher(judge, numbers.batch)
        except BaseException:
            self._socket.close()
            raise
        numbers.queue(lambda: room.photos)
        self._pool = ThreadPoolExecutor(decoding_threads(), "photos")

        def count(path: str, code: int, seconds: float) -> None:
            numbers.request(path if path in PATHS else "other", code, seconds)

        app = make_app(judge, self._batcher, room, numbers, self._pool)
        super().__init__(
            uvicorn.Config(
                Gate(app, hosts=names or None, count=count),
                http=_Connection,
                ws="none",
                loop="asyncio",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                h11_max_incomplete_event_size=HEADERS,
                limit_concurrency=bounds.queue + SPARE,
                timeout_graceful_shutdown=round(FINISH) + 3,
            )
        )

    def answer(self) -> None:
        """Answer requests until a signal comes (in the main thread), or `should_exit` is set.

        What is in flight then is answered, as far as it takes a few seconds.
        """
        try:
            asyncio.run(self._answer())
        finally:
            self._pool.shutdown(cancel_futures=True)
            self._socket.close()

    async def _answer(self) -> None:
        scoring = asyncio.create_task(self._batcher.run())
        scoring.add_done_callback(lambda _: self._stop())  # a fault: nothing would be answered
        await self.serve(sockets=[self._socket])
        scoring.cancel()
        with suppress(asyncio.CancelledError):
            await scoring

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        judge = self._judge
        told = f"model {judge.id}" + (f", {judge.category}" if judge.category else "")
        print(f"serving on {self.url} ({told})", file=sys.stderr, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen no more, and finish what is in flight."""
        asyncio.get_running_loop().call_later(FINISH, self._batcher.close)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave in peace at the first signal, at once at the second."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        if self.should_exit:
            self.force_exit = True
            self._batcher.close()
            return
        log("stopping: what is in flight is answered")
        self.should_exit = True


def serve(judge: Judge, **options: Any) -> None:
    """Answer requests until a signal comes; see `Server`."""
    Server(judge, **options).answer()


class _Connection(H11Protocol):
    """One that neither waits for ever for a request, nor for an answer to be taken."""

    _seen: Any = None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Answer who has said all, and who has broken off a body."""
        if self.cycle is None or self.cycle.response_complete:
            return None
        if self.cycle.more_body:
            self.scope[TRUNCATED] = True  # type: ignore[literal-required]
            self.cycle.more_body = False
        self.cycle.keep_alive = False
        self.cycle.message_event.set()
        return True

    def send_400_response(self, msg: str) -> None:
        log(f"{(self.client or ('-',))[0]} - - 400 no HTTP request that is understood")
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # an answer has begun
            self.transport.close()

    def _look(self) -> None:
        waits = self.cycle is None or self.cycle.response_complete
        unsent = self.transport.get_write_buffer_size()
        seen = self.cycle, waits, unsent
        if seen == self._seen and (waits or unsent):
            self.transport.abort()
            return
        self._seen = seen
        self._timer = self.loop.call_later(IDLE, self._look)


def _checked(bounds: Bounds) -> Bounds:
    if not 1 <= bounds.max_body <= 1 << 30:
        raise InputError("--max-body is 1 to 1024 MB")
    if not 1 <= bounds.queue <= 10_000:
        raise InputError(f"--queue is {bounds.queue}: it is 1 to 10000 photos")
    return bounds


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens at host and port."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port is {port}: it is 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # Without the protocol, asyncio does not set TCP_NODELAY: 40 ms an answer.
        found = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host} is no address of this machine ({error})") from None
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        # Two may bind a port that nobody listens on; the second would know after compiling alone.
        found.listen(1)
    except OSError as error:
        found.close()
        raise InputError(
            f"{host}:{port} can not be listened on ({error.strerror}): choose another --port, or 0 "
            "for a free one"
        ) from None
    return found
