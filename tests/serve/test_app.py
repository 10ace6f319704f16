"""What is answered to whom: decisions, overlays, the page, numbers, and who is refused."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from serving import Answer, ask, judge, photo, running

from jaxad.serve import app
from jaxad.serve.bounds import Bounds

HOSTILE = "<img onerror=alert(1)>\ud800"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(judge(category=HOSTILE), bounds=Bounds(max_body=100_000)) as server:
        yield server.url


def bomb(side: int) -> bytes:
    """A PNG of few bytes that says that it has side * side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        sum_ = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", sum_)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


def test_a_photo_is_judged(url: str) -> None:
    for red, decision in ((60, "good"), (200, "anomalous")):
        for kind in ("PNG", "BMP", "TIFF"):
            answer = ask(url, body=photo(red, size=(16, 36), kind=kind))
            assert answer.code == 200
            assert answer.headers["content-type"] == "application/json"
            found = answer.json
            assert found["score"] == np.float32(red) / np.float32(255)
            assert (found["decision"], found["threshold"]) == (decision, 0.5)
            assert (found["height"], found["width"]) == (16, 36)
            boxes = [region["box"] for region in found["regions"]]
            assert boxes == ([] if decision == "good" else [[0, 0, 36, 16]])
            assert found["model"] == "0123456789abcdef"
            assert not {"path", "error", "overlay"} & set(found)
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(turned, "JPEG", exif=exif)
    found = ask(url, body=turned.getvalue()).json
    assert (found["height"], found["width"]) == (30, 20)
    assert ask(url, body=photo(), Content_Type="image/png; x=y").code == 200
    assert ask(url, body=photo(), Content_Type="application/x-www-form-urlencoded").code == 200


def test_an_overlay_comes_when_asked_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "overlay" not in ask(url, "/v1/judge?overlay=0", photo(200)).json

    def drawn() -> Image.Image:
        found = ask(url, "/v1/judge?overlay=1", photo(200, size=(40, 60))).json
        return Image.open(io.BytesIO(base64.b64decode(found["overlay"])), formats=["PNG"])

    assert drawn().size == (60, 40)
    assert np.ptp(np.asarray(drawn()).astype(int)) > 50  # not the grey photo
    monkeypatch.setattr(app, "OVERLAY_PIXELS", 600)
    assert drawn().size == (30, 20)


def test_what_is_no_photo_is_refused_in_a_line(url: str) -> None:
    whole = photo()
    text = {"Content_Type": "text/plain"}
    cases: list[tuple[int, str, Answer]] = [
        (400, "is empty", ask(url, body=b"")),
        (422, "no PNG, JPEG, BMP or TIFF", ask(url, body=b"<html>" * 99)),
        (422, "damaged or truncated", ask(url, body=whole[: len(whole) // 2])),
        (422, "damaged or truncated", ask(url, body=photo(kind="JPEG")[:200])),
        (422, "damaged or truncated", ask(url, body=bomb(2000))),
        (422, "pixels is more than", ask(url, body=bomb(60_000))),
        (413, "larger than 100000 bytes", ask(url, body=bytes(100_001))),
        (413, "larger than 100000 bytes", ask(url, body=iter([bytes(60_000)] * 40))),
        (415, "text/plain is no photo", ask(url, body=whole, **text)),
        (415, "without a content-encoding", ask(url, body=whole, Content_Encoding="gzip")),
        (400, "overlay=1 is all there is", ask(url, "/v1/judge?overlay=yes", whole)),
        (400, "overlay=1 is all there is", ask(url, "/v1/judge?overlay=1&a=b", whole)),
        (405, "Method", ask(url, method="PUT", body=whole)),
        (405, "Method", ask(url, "/", whole)),
        (404, "Not Found", ask(url, "/v1/judge/", whole)),
        (404, "Not Found", ask(url, "/../etc/passwd")),
        (421, "does not go by the name", ask(url, Host="evil.example:80")),
        (421, "does not go by the name", ask(url, Host="127.0.0.1.evil.example")),
    ]
    for code, told, answer in cases:
        assert answer.code == code, (answer, told)
        assert list(answer.json) == ["error"]
        assert told in answer.json["error"]
        assert "Traceback" not in answer.json["error"]
    for name in ("LocalHost:1", "127.3.2.1", "[::1]:80"):
        assert ask(url, "/healthz", Host=name).code == 200


def test_the_page_runs_its_own_script_alone(url: str) -> None:
    answer = ask(url, "/")
    page, policy = answer.body.decode(), answer.headers["content-security-policy"]
    assert "<img onerror" not in page
    assert "&lt;img onerror" in page
    for kind in ("script", "style"):
        (text,) = re.findall(f"<{kind}>(.*?)</{kind}>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"""<[^>]*((src|href)=["']?(https?:|//)|\son\w+=|\sstyle=)""", page)
    assert "curl --data-binary" in page.split("<noscript>")[1]
    for path in ("/", "/healthz", "/v1/model", "/metrics", "/none"):
        headers = ask(url, path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert not {"access-control-allow-origin", "server"} & {name.lower() for name in headers}


def test_the_model_and_the_numbers_are_told() -> None:
    with running(judge()) as server:
        url = server.url
        for red in (60, 60, 200):
            ask(url, body=photo(red))
        ask(url, body=b"nothing")
        for n in range(3):
            ask(url, f"/{n}")
        about = ask(url, "/v1/model").json
        assert (about["size"], about["threshold"], about["false_alarm"]) == ([8, 12], 0.5, 0.05)
        assert about["calibration_photos"] == 50
        told = ask(url, "/metrics").body.decode()
    for line in (
        'jaxad_requests_total{code="200",path="/v1/judge"} 3.0',
        'jaxad_requests_total{code="422",path="/v1/judge"} 1.0',
        'jaxad_requests_total{code="404",path="other"} 3.0',
        'jaxad_photos_total{decision="good"} 2.0',
        'jaxad_photos_total{decision="anomalous"} 1.0',
        "jaxad_batch_photos_sum 3.0",
        "jaxad_judge_seconds_count 3.0",
        "jaxad_queue_photos 0.0",
    ):
        assert line in told.splitlines()
    assert "jaxad_passed_p_value_mean" in told


def test_a_fault_is_told_without_what_is_within(capsys: pytest.CaptureFixture[str]) -> None:
    faults = [False]

    def before(n: int) -> None:
        if faults[0]:
            raise RuntimeError("secret")

    with running(judge(before=before)) as server:
        faults[0] = True
        answer = ask(server.url, body=photo())
        assert (answer.code, answer.json) == (500, {"error": "internal error"})
        assert ask(server.url, "/healthz").code == 503
        faults[0] = False
        assert ask(server.url, body=photo()).code == 200
        assert ask(server.url, "/healthz").code == 200
    assert "RuntimeError: secret" in capsys.readouterr().err


def test_a_line_of_log_a_request(capsys: pytest.CaptureFixture[str]) -> None:
    with running(judge()) as server:
        ask(server.url, body=photo(200))
        ask(server.url, "/a%1b[2J%0aforged" + "x" * 500)
        ask(server.url, body=b"x" * 50)
    lines = capsys.readouterr().err.splitlines()[1:]
    assert len(lines) == 3
    time_ = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ 127\.0\.0\.1 "
    assert re.fullmatch(time_ + r"POST /v1/judge 200 \d+ ms anomalous batch 1", lines[0])
    assert re.fullmatch(time_ + r"GET /a\\x1b\[2J\\nforgedx{80,100} 404 \d+ ms", lines[1])
    assert re.fullmatch(time_ + r"POST /v1/judge 422 \d+ ms", lines[2])


def test_json_has_no_number_that_is_none(url: str) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    for answer in (ask(url, body=photo()), ask(url, "/v1/model")):
        json.loads(answer.body, parse_constant=refuse)
