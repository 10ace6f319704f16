"""The application: what is asked for by which path, and what is answered."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import jaxad
from jaxad.calibration import Limits
from jaxad.data.sources import Photo
from jaxad.report.overlay import draw_overlay, map_at
from jaxad.runs.drawings import colours_of
from jaxad.runs.models import Judge
from jaxad.runs.rows import Judged, decode, read
from jaxad.serve.batching import Batcher, ClosedError
from jaxad.serve.bounds import Room, busy, read_body
from jaxad.serve.gate import TOLD
from jaxad.serve.numbers import Numbers
from jaxad.serve.page import make_page

OVERLAY_PIXELS = 2 << 20
"""Of an overlay at most: that of a larger photo is smaller than the photo."""
_PHOTO = Photo("the photo", "")
_KINDS = ("image/", "application/octet-stream", "application/x-www-form-urlencoded")
"""Content types of a photo; the last one is what curl says of any file."""


class _Json(Response):
    """In ASCII: a name may hold what UTF-8 can not."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode("ascii")


def make_app(
    judge: Judge, batcher: Batcher, room: Room, numbers: Numbers, pool: ThreadPoolExecutor
) -> Starlette:
    """The application; `pool` reads and draws photos."""
    page, policy = make_page(judge, room.bounds)

    async def judge_photo(request: Request) -> Response:
        with_overlay = _wants_overlay(request)
        _check_type(request)
        room.check()
        loop = asyncio.get_running_loop()
        with room.holding() as body:
            await read_body(request, room, body)
            with room.admitted():
                data = bytes(body)
                decoded = await loop.run_in_executor(pool, decode, _PHOTO, judge, data)
                if decoded.error:
                    raise HTTPException(422, decoded.error)
                try:
                    found, batch = await batcher.score(decoded)
                except ClosedError:
                    raise busy("the server stops") from None
                row = found.row
                if row.error:
                    raise HTTPException(500, row.error)
                answer = {**row._asdict(), "regions": json.loads(row.regions)}
                del answer["path"], answer["error"]
                if with_overlay:
                    drawn = await loop.run_in_executor(pool, _overlay, found, judge, data)
                    answer["overlay"] = base64.b64encode(drawn).decode()
        numbers.photo(row)
        request.scope[TOLD] = f"{row.decision} batch {batch}"
        return _Json(answer)

    async def show_page(request: Request) -> Response:
        headers = {"content-security-policy": policy}
        return Response(page, media_type="text/html", headers=headers)

    async def tell_health(request: Request) -> Response:
        if batcher.failed:
            raise HTTPException(503, "the last photos could not be scored")
        return _Json({"status": "ready"})

    async def tell_numbers(request: Request) -> Response:
        return Response(numbers.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def tell_model(request: Request) -> Response:
        return _Json(about(judge, room))

    app = Starlette(
        routes=[
            Route("/", show_page),
            Route("/healthz", tell_health),
            Route("/metrics", tell_numbers),
            Route("/v1/model", tell_model),
            Route("/v1/judge", judge_photo, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _told, 500: _fault},
    )
    app.router.redirect_slashes = False  # to an address that the request chooses
    return app


PATHS = frozenset({"/", "/healthz", "/metrics", "/v1/model", "/v1/judge"})
"""All there are."""


def about(judge: Judge, room: Room) -> dict[str, Any]:
    """Who judges, by which limits."""
    return {
        "model": judge.id,
        "category": judge.category,
        "size": list(judge.size),
        "resample": judge.resample,
        "upright": judge.upright,
        "threshold": judge.limits.score,
        "pixel_threshold": judge.limits.pixel,
        "false_alarm": judge.false_alarm,
        "calibration_photos": _photos(judge.limits),
        "subclasses": {
            name: {
                "threshold": limits.score,
                "pixel_threshold": limits.pixel,
                "calibration_photos": _photos(limits),
            }
            for name in judge.subclasses
            for limits in [judge.lines.of(name)]
        },
        "batch_size": judge.batch_size,
        "runtime": judge.runtime,
        "max_body": room.bounds.max_body,
        "jaxad": jaxad.__version__,
    }


def _photos(limits: Limits) -> int:
    return sum(len(own.scores) for own in limits.normal)


def _wants_overlay(request: Request) -> bool:
    given = request.query_params.multi_items()
    if not given:
        return False
    if given not in ([("overlay", "0")], [("overlay", "1")]):
        raise HTTPException(400, "the query is not understood: ?overlay=1 is all there is")
    return given[0][1] == "1"


def _check_type(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and not kind.startswith(_KINDS):
        raise HTTPException(
            415,
            f"{kind[:100]} is no photo: send its file as the body, as curl --data-binary does",
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "send the photo's file as it is, without a content-encoding")


def _overlay(found: Judged, judge: Judge, data: bytes) -> bytes:
    """A PNG of a photo under its heat."""
    assert found.map is not None
    assert found.limits is not None
    photo = read(_PHOTO, judge, data)
    scale = math.sqrt(OVERLAY_PIXELS / (photo.width * photo.height))
    if scale < 1:
        photo = photo.resize([max(1, int(scale * side)) for side in photo.size])
    scores = map_at(found.map, (photo.height, photo.width))
    limit, colours = found.limits.pixel, colours_of(found.limits)
    return draw_overlay(photo, scores, limit=limit, colours=colours, kind="PNG")


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _Json({"error": error.detail}, error.status_code, error.headers)


async def _fault(request: Request, error: Exception) -> Response:
    return _Json({"error": "internal error"}, 500)
