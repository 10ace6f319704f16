"""`jaxad serve` under many clients at once, and under hostile ones: errors, times, memory.

See `benchmarks.soak`. The server is a process of its own, the clients are threads of this one on
the same machine, each with a connection that is kept, sending one photo after the other.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.soak_memory import resident
from benchmarks.soak_runs import ROOT, environment
from jaxad.errors import InputError

PAUSE = 0.5
"""Seconds between two looks at memory."""
GIGABYTE = 1 << 30
_JUDGE = "/v1/judge"


class Hostile(NamedTuple):
    """A request that has to be refused."""

    name: str
    head: bytes
    body: Iterator[bytes]
    codes: tuple[int, ...]


@contextlib.contextmanager
def served(source: Sequence[str], root: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server of a detector: its port and process. It has to end in peace.

    Args:
        source: Flags of `jaxad serve` that name the detector.
        root: Folder for its log and for what is compiled.

    Raises:
        InputError: It did not start, or not end with exit code 0.
    """
    path = root / "serve.log"
    line = [sys.executable, "-m", "jaxad", "serve", *source, "--port", "0"]
    with path.open("wb") as log:
        process = subprocess.Popen(line, cwd=ROOT, env=environment(root / "compiled"), stderr=log)
    try:
        while b"serving on" not in (said := path.read_bytes()):
            if process.poll() is not None:
                raise InputError(f"jaxad serve ended so: {said[-300:].decode(errors='replace')}")
            time.sleep(0.1)
        address = said[said.index(b"serving on") :].split()[2]
        yield int(address.rpartition(b":")[2]), process
        process.send_signal(signal.SIGTERM)
        if process.wait(30):
            raise InputError(f"jaxad serve ended with {process.returncode}")
    finally:
        process.kill()
        process.wait()


def load(
    port: int, process: int, photos: Sequence[bytes], *, clients: int, seconds: float
) -> dict[str, Any]:
    """Send photos from many clients for a while.

    Args:
        port: Of the server.
        process: Its id.
        photos: Files, sent in turn.
        clients: How many at once.
        seconds: How long.
    """
    end = time.monotonic() + seconds
    codes: Counter[str] = Counter()
    took: list[float] = []
    number, taking = itertools.count(), threading.Lock()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        own, seen = [], Counter[str]()
        while time.monotonic() < end:
            begun = time.monotonic()
            try:
                connection.request("POST", _JUDGE, photos[next(number) % len(photos)])
                answer = connection.getresponse()
                answer.read()
                seen[str(answer.status)] += 1
                own.append(time.monotonic() - begun)
            except (OSError, http.client.HTTPException) as error:
                seen[type(error).__name__] += 1
                connection.close()
        connection.close()
        with taking:
            took.extend(own)
            codes.update(seen)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    memory: list[tuple[float, float]] = []
    for thread in threads:
        thread.start()
    begun = time.monotonic()
    while any(thread.is_alive() for thread in threads):
        memory.append((time.monotonic() - begun, resident(process)))
        time.sleep(PAUSE)
    whole = time.monotonic() - begun
    early = [mb for at, mb in memory if 0.2 * whole < at < 0.4 * whole]
    late = [mb for at, mb in memory if at > 0.8 * whole]
    return {
        "clients": clients,
        "seconds": round(whole, 1),
        "requests": len(took),
        "per_second": round(len(took) / whole, 1),
        "codes": dict(codes),
        **{f"p{p}_ms": round(1000 * float(np.percentile(took, p)), 1) for p in (50, 95, 99)},
        "megabyte": round(max(mb for _, mb in memory), 1),
        "growth": round(float(np.median(late) / np.median(early) - 1), 4),
        "memory": [(round(at, 1), round(mb, 1)) for at, mb in memory],
    }


def hostile(photo: bytes) -> Iterator[Hostile]:
    """Requests that are no photos."""
    length = "Content-Length: {}".format
    chunked = "Transfer-Encoding: chunked"
    half = photo[: len(photo) // 2]

    def one(name: str, head: str, body: Iterator[bytes], *codes: int) -> Hostile:
        start = f"POST {_JUDGE} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n"
        return Hostile(name, start.encode("latin-1"), body, codes)

    def sized(name: str, data: bytes, *codes: int, more: str = "") -> Hostile:
        return one(name, length(len(data)) + more, iter([data]), *codes)

    def chunks(size: int, count: int) -> Iterator[bytes]:
        return itertools.repeat(b"%x\r\n" % size + bytes(size) + b"\r\n", count)

    yield sized("empty", b"", 400)
    yield sized("half a photo", half, 422)
    yield one("a body cut off", length(len(photo)), iter([half]), 400)
    yield sized("noise", np.random.default_rng(0).bytes(100_000), 422)
    yield sized("HTML", b"<img onerror=alert(1)>" * 99, 422)
    yield sized("a PNG of 3.6 gigapixels", _bomb(60_000), 422)
    yield sized("a PNG of 64 megapixels, damaged", _bomb(8_000), 422)
    yield sized("an archive", photo, 415, more="\r\nContent-Type: application/zip")
    yield sized("gzip", photo, 415, more="\r\nContent-Encoding: gzip")
    yield one("a gigabyte, said", length(GIGABYTE), itertools.repeat(bytes(1 << 20), 1024), 413)
    yield one("a gigabyte in chunks", chunked, chunks(1 << 20, 1024), 413)
    yield one("chunks of a byte", chunked, chunks(1, 200_000), 400)
    yield one("a chunk that is none", chunked, iter([b"zz\r\n"]), 400)
    yield one("two lengths", f"{length(3)}\r\n{length(4)}", iter([b"abc"]), 400)
    yield one("a length below zero", length(-1), iter([b"abc"]), 400)
    yield one("long headers", "X: " + "x" * 100_000, iter(()), 400)
    yield Hostile("no HTTP", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n", iter(()), (400,))


def attack(port: int, photo: bytes) -> list[dict[str, Any]]:
    """Send every hostile request; what came back."""
    found = []
    for one in hostile(photo):
        begun = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(one.head)
                for part in one.body:
                    connection.sendall(part)
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                answer = connection.recv(4096)
        code = int(answer[9:12]) if answer[9:12].isdigit() else None
        took = round(time.monotonic() - begun, 2)
        found.append({"name": one.name, "code": code, "as": list(one.codes), "seconds": took})
    return found


def _bomb(side: int) -> bytes:
    """A PNG of few bytes that says that it has side x side pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(bytes(10_000_000))) + chunk(b"IEND", b"")


def measure(
    source: Sequence[str], root: Path, photos: Sequence[Path], *, clients: int, seconds: float
) -> dict[str, Any]:
    """A server under load, attacked, and under a little load again."""
    files = [path.read_bytes() for path in photos]
    with served(source, root) as (port, process):
        loaded = load(port, process.pid, files, clients=clients, seconds=seconds)
        before = resident(process.pid)
        attacks = attack(port, files[0])
        again = load(port, process.pid, files, clients=4, seconds=min(seconds, 5.0))
        after = resident(process.pid)
    log = (root / "serve.log").read_bytes().decode(errors="replace").splitlines()
    lines = sum("POST /v1/judge 200" in line for line in log)
    wrong = [f"{one['name']}: {one['code']}" for one in attacks if one["code"] not in one["as"]]
    for part in (loaded, again):
        wrong += [f"{count} x {code}" for code, count in part["codes"].items() if code != "200"]
    if lines != loaded["requests"] + again["requests"]:
        wrong.append(f"{lines} lines of log for {loaded['requests'] + again['requests']} photos")
    wrong += [line for line in log if "Traceback" in line]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 1),
        "loaded": loaded,
        "attacks": attacks,
        "afterwards": again,
        "megabyte_before_and_after_attacks": [round(before, 1), round(after, 1)],
        "wrong": wrong,
    }
