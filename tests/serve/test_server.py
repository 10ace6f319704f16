"""A server under load, with clients that hang, and at its end."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving import Answer, ask, judge, photo, running

from jaxad.errors import InputError
from jaxad.serve import bounds, gate, server
from jaxad.serve.bounds import Bounds
from jaxad.serve.server import Server

PARALLEL = 32


def raw(url: str, data: bytes, *, end: bool = False) -> bytes:
    """Send bytes, perhaps say that these were all; everything that comes until the end."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(data)
        if end:
            connection.shutdown(socket.SHUT_WR)
        found = b""
        try:
            while more := connection.recv(65536):
                found += more
        except ConnectionResetError:
            pass
        return found


def head(length: int | str) -> bytes:
    return (
        f"POST /v1/judge HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()
    )


def test_parallel_requests_get_their_own_answers_and_share_batches() -> None:
    batches: list[int] = []

    def before(n: int) -> None:
        batches.append(n)
        time.sleep(0.01)

    with running(judge(batch_size=8, before=before)) as here:
        batches.clear()
        reds = [3 * n for n in range(PARALLEL)]
        with ThreadPoolExecutor(PARALLEL) as pool:
            found = list(pool.map(lambda red: ask(here.url, body=photo(red)), reds))
        assert [round(255 * one.json["score"]) for one in found] == reds
        assert len(batches) < PARALLEL


def test_more_than_the_queue_is_refused_for_now() -> None:
    go = threading.Event()
    go.set()
    with running(
        judge(batch_size=1, before=lambda n: go.wait() and None), bounds=Bounds(queue=3)
    ) as h:
        go.clear()
        with ThreadPoolExecutor(8) as pool:
            try:
                waiting = [pool.submit(ask, h.url, body=photo()) for _ in range(3)]
                end = time.monotonic() + 20
                while b"jaxad_queue_photos 3.0" not in ask(h.url, "/metrics").body:
                    assert time.monotonic() < end
                    time.sleep(0.02)
                late = pool.submit(ask, h.url, body=photo())
                refused = late.result(timeout=10)
                assert ask(h.url, "/healthz").code == 200
            finally:
                go.set()
            assert [one.result().code for one in waiting] == [200] * 3
        assert (refused.code, refused.headers["retry-after"]) == (503, "1")
        assert "3 photos wait already" in refused.json["error"]
        assert ask(h.url, body=photo()).code == 200


def test_bodies_that_are_sent_slowly_share_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "HELD", 2)
    monkeypatch.setattr(bounds, "BODY_SECONDS", 1.0)
    monkeypatch.setattr(gate, "LINGER", 0.1)
    monkeypatch.setattr(server, "IDLE", 0.5)
    with running(judge(), bounds=Bounds(max_body=1000)) as here, ThreadPoolExecutor(3) as pool:
        slow = [pool.submit(raw, here.url, head(1000) + bytes(900), end=False) for _ in range(2)]
        time.sleep(0.4)
        refused = ask(here.url, body=photo() + bytes(500))
        assert (refused.code, "too many bytes" in refused.json["error"]) == (503, True)
        # The client holds its connection until the server ends it.
        assert all(b" 408 " in one.result().splitlines()[0] for one in slow)
        assert ask(here.url, body=photo() + bytes(800)).code == 200  # what they held is free


def test_what_is_cut_off_or_no_http_gets_400(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = photo()
    long_ = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (server.HEADERS + 100)
    chunked = head(1).replace(b"Content-Length: 1", b"Transfer-Encoding: chunked")
    with running(judge()) as here:
        for data in (
            head(len(whole) + 10) + whole,
            chunked + b"%x\r\n" % len(whole) + whole + b"\r\n",
            head(3),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\n\r\n",
            head(-1),
            head("1e9"),
            head(10) + b"0",
            chunked + b"zz\r\n",
            long_,
        ):
            assert b" 400 " in raw(here.url, data, end=True).splitlines()[0], data[:80]
        assert b" 200 " in raw(here.url, head(len(whole)) + whole, end=True).splitlines()[0]
        ended = socket.create_connection(("127.0.0.1", here.port))
        ended.sendall(head(10_000) + whole)
        ended.close()
        assert ask(here.url, body=whole).code == 200


def test_a_body_of_a_gigabyte_is_refused_by_its_head() -> None:
    with running(judge()) as here:
        begun = time.monotonic()
        answer = raw(here.url, head(1 << 30) + bytes(1 << 20), end=True)
        assert b" 413 " in answer.splitlines()[0]
        assert time.monotonic() - begun < 4  # the rest is not waited for


def test_a_connection_that_brings_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE", 0.3)
    with running(judge()) as here:
        for data in (b"", b"GET / HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET"):
            begun = time.monotonic()
            raw(here.url, data)
            assert time.monotonic() - begun < 10


def test_a_connection_is_kept_for_a_while_after_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "IDLE", 0.6)
    slow = threading.Event()

    def before(n: int) -> None:
        time.sleep(0.8 if slow.is_set() else 0)

    with running(judge(before=before)) as here:
        slow.set()  # looked at while it is answered, and then before the next request
        client = http.client.HTTPConnection("127.0.0.1", here.port)
        client.request("POST", "/v1/judge", photo())
        assert client.getresponse().read()
        assert client.sock is not None
        same = client.sock
        time.sleep(0.6)
        client.request("GET", "/healthz")
        assert client.getresponse().status == 200
        assert client.sock is same
        client.close()


def test_an_answer_does_not_wait_for_an_acknowledgement() -> None:
    took = []
    with running(judge()) as here:
        client = http.client.HTTPConnection("127.0.0.1", here.port)
        for _ in range(12):
            begun = time.monotonic()
            client.request("POST", "/v1/judge", photo())
            client.getresponse().read()
            took.append(time.monotonic() - begun)
        client.close()
    assert sorted(took)[4] < 0.03, took  # Nagle's algorithm would make it 40 ms


def test_what_is_in_flight_is_answered_at_the_end() -> None:
    slow, seen = threading.Event(), threading.Event()

    def before(n: int) -> None:
        if slow.is_set():
            seen.set()
            time.sleep(0.5)

    with running(judge(batch_size=1, before=before)) as here, ThreadPoolExecutor(2) as pool:
        slow.set()
        answers = [pool.submit(ask, here.url, body=photo()) for _ in range(2)]
        seen.wait()
        here.should_exit = True
        assert [one.result().code for one in answers] == [200, 200]
    with pytest.raises(ConnectionRefusedError):
        ask(here.url, "/healthz")
    assert not [t for t in threading.enumerate() if t.name.startswith(("scoring", "photos"))]


def test_what_takes_too_long_is_refused_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FINISH", 0.3)
    slow, seen = threading.Event(), threading.Event()

    def before(n: int) -> None:
        if slow.is_set():
            seen.set()
            time.sleep(0.8)

    found: list[Answer] = []
    with running(judge(batch_size=1, before=before)) as here, ThreadPoolExecutor(4) as pool:
        slow.set()
        answers = [pool.submit(ask, here.url, body=photo()) for _ in range(4)]
        seen.wait()
        time.sleep(0.2)
        here.should_exit = True
        found = [one.result() for one in answers]
    assert sorted(one.code for one in found) == [200, 503, 503, 503]


def test_a_port_that_is_taken_and_bounds_without_sense() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port} can not be listened on .*--port"):
            Server(judge(), port=port)
    for options, told in (
        ({"port": 70_000}, "--port is 70000"),
        ({"port": 0, "host": "no such host"}, "no address of this machine"),
        ({"port": 0, "host": "203.0.113.1"}, "can not be listened on"),
        ({"port": 0, "bounds": Bounds(max_body=0)}, "--max-body"),
        ({"port": 0, "bounds": Bounds(queue=0)}, "--queue is 0"),
    ):
        with pytest.raises(InputError, match=told):
            Server(judge(), **options)


def test_names_go_by_where_it_listens() -> None:
    with running(judge(), host="0.0.0.0") as here:
        assert ask(f"http://127.0.0.1:{here.port}", "/healthz", Host="any.example").code == 200
    with running(judge(), hosts=["parts.example"]) as here:
        assert ask(here.url, "/healthz", Host="Parts.Example:80").code == 200
        assert ask(here.url, "/healthz", Host="other.example").code == 421
