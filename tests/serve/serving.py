"""A judge that needs no network, a server in a thread, and a client: for tests of serving."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxad.calibration import Limits
from jaxad.core import Scores
from jaxad.normal import Normal
from jaxad.runs.models import Judge, Score
from jaxad.serve.server import Server

SIZE = (8, 12)
LIMIT = 0.5


def judge(
    *, batch_size: int = 4, category: str = "washer", before: Callable[[int], None] = lambda n: None
) -> Judge:
    """One whose map is the red channel, and whose score is its highest value.

    `before` is called with the size of each batch.
    """
    scores = np.linspace(0.1, LIMIT, 50, dtype=np.float32)

    def compiled(batch_size: int) -> Score:
        def score(images: Any) -> Scores:
            assert images.shape == (batch_size, *SIZE, 3)
            before(batch_size)
            maps = images[..., 0].astype(np.float32) / 255
            return Scores(maps, maps.max(axis=(1, 2)))

        return score

    return Judge(
        id="0123456789abcdef",
        category=category,
        size=SIZE,
        resample="bilinear",
        upright=True,
        batch_size=batch_size,
        runtime="xla",
        limits=Limits(LIMIT, LIMIT, (Normal(scores, scores, ("",) * 50),)),
        false_alarm=0.05,
        compiled=compiled,
    )


def photo(red: int = 60, *, size: tuple[int, int] = SIZE, kind: str = "PNG") -> bytes:
    """A file of one colour; size: (height, width)."""
    data = io.BytesIO()
    Image.new("RGB", size[::-1], (red, 60, 60)).save(data, kind)
    return data.getvalue()


class Answer(NamedTuple):
    code: int
    body: bytes
    headers: http.client.HTTPMessage

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


def ask(
    url: str, path: str = "/v1/judge", body: Any = None, method: str = "", **headers: str
) -> Answer:
    """One request; a name of a header has `_` for `-`."""
    client = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        client.request(method or ("GET" if body is None else "POST"), path, body, names)
        answer = client.getresponse()
        return Answer(answer.status, answer.read(), answer.headers)
    finally:
        client.close()


@contextmanager
def running(who: Judge, **options: Any) -> Iterator[Server]:
    """A server that listens; it has stopped afterwards."""
    server = Server(who, port=0, **options)
    thread = threading.Thread(target=server.answer)
    thread.start()
    try:
        end = time.monotonic() + 30
        while not server.started and time.monotonic() < end:
            time.sleep(0.01)
        yield server
    finally:
        server.should_exit = True
        thread.join()
