"""What every request passes: host names, headers of the answer, one line of log, last errors."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import sys
import time
import traceback
from collections.abc import Callable, Collection
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxad.errors import printable

LINGER = 5.0
"""Seconds for which the rest of a refused body is thrown away: who only reads an answer after the
whole body was sent would see a broken connection instead."""
TOLD = "jaxad.told"
"""In a request's scope: what its line of log says besides."""
_LONGEST = 100
"""Signs of a path in the log."""
POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

Count = Callable[[str, int, float], None]
"""Takes the path, the code and the seconds of a request."""


class Gate:
    """Stands before an application."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] | None, count: Count) -> None:
        """Set up.

        Args:
            app: What answers.
            hosts: Names that the server goes by, beside addresses of this machine; None: any. A
                page of a stranger whose name leads here (DNS rebinding) is refused by it.
            count: Called at the end of every request.
        """
        self._app, self._hosts, self._count = app, hosts, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        begun = time.monotonic()
        code, read = 0, False

        async def hear() -> Message:
            nonlocal read
            message = await receive()
            read |= not message.get("more_body", False)
            return message

        async def say(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                message = {**message, "headers": _headers(message)}
            elif not message.get("more_body", False) and not read and code >= 400:
                await send({**message, "more_body": True})
                await _emptied(hear)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        try:
            host = next((v for k, v in scope["headers"] if k == b"host"), b"").decode("latin-1")
            if self._hosts is not None and not is_known(host, self._hosts):
                told = f"this server does not go by the name {host[:_LONGEST]!r} (--allow-host)"
                await _refuse(say, 421, told)
            else:
                await self._app(scope, hear, say)
        except Exception:
            traceback.print_exc()
            if not code:
                await _refuse(say, 500, "internal error")
        finally:
            seconds = time.monotonic() - begun
            self._count(scope["path"], code, seconds)
            log(_line(scope, code, seconds))


def is_known(host: str, names: Collection[str]) -> bool:
    """Whether a Host header is one of the names (any port), or an address of this machine alone."""
    name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not port.isdecimal():
        name = host
    if name.lower() in names:
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def log(text: str) -> None:
    """Print a line with the time on standard error; where nobody reads it any more, it is lost."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    try:
        print(f"{now} {printable(text)}", file=sys.stderr, flush=True)
    except OSError:
        return


def _line(scope: Scope, code: int, seconds: float) -> str:
    client = (scope.get("client") or ("-",))[0]
    path = scope["path"][:_LONGEST]
    told = f"{client} {scope['method'][:10]} {path} {code or 'gone'} {1000 * seconds:.0f} ms"
    return f"{told} {more}" if (more := scope.get(TOLD)) else told


def _headers(message: Message) -> list[tuple[bytes, bytes]]:
    headers = list(message.get("headers", ()))
    there = {name.lower() for name, _ in headers}
    own: dict[str, Any] = {**_HEADERS, "content-security-policy": POLICY}
    return headers + [
        (name.encode(), value.encode()) for name, value in own.items() if name.encode() not in there
    ]


async def _emptied(hear: Receive) -> None:
    """Throw away what is left of a body, for a while."""
    try:
        async with asyncio.timeout(LINGER):
            while (await hear()).get("more_body", False):
                pass
    except TimeoutError:
        return


async def _refuse(send: Send, code: int, why: str) -> None:
    body = json.dumps({"error": printable(why)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": body})
