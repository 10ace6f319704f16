"""Maps, overlays and masks of photos, as files whose names tell the photo."""

from __future__ import annotations

import hashlib
import os
import re
from typing import NamedTuple

import numpy as np

from jaxad.calibration import Limits
from jaxad.core import InputError
from jaxad.data.sources import Photo
from jaxad.files import confined, make_folder, written
from jaxad.report.overlay import draw_mask, draw_overlay, map_at, write_map
from jaxad.runs import record
from jaxad.runs.models import Judge
from jaxad.runs.rows import Judged, read
from jaxad.runs.shards import MAPS, MASKS, OVERLAYS, SHARDS, Row, plain

_LONGEST = 150
"""Bytes of a part of a name."""


class Drawing(NamedTuple):
    """What is wanted of every photo."""

    maps: bool = False
    overlays: bool = False
    masks: bool = False

    def folders(self) -> tuple[str, ...]:
        """Where it goes."""
        wanted = zip((MAPS, OVERLAYS, MASKS), self)
        return tuple(name for name, is_wanted in wanted if is_wanted)


NOTHING = Drawing()


class Drawings:
    """Draws for one job; threads may share it."""

    def __init__(
        self, ours: record.Record, judge: Judge, drawing: Drawing, *, unique: bool
    ) -> None:
        """Set up.

        Args:
            ours: The record of the folder of results.
            judge: Who gave the maps.
            drawing: What is wanted.
            unique: Whether `Photo.below` differs from photo to photo.

        Raises:
            InputError: A folder of these names is there that is not ours.
        """
        self._folder, self._judge, self._drawing, self._unique = ours.folder, judge, drawing, unique
        for name in drawing.folders():
            make_folder(ours.tree(name))
        # Where what a kill has left is deleted; it may be any of a million folders otherwise.
        self._unfinished = make_folder(ours.tree(SHARDS))

    @property
    def wanted(self) -> bool:
        """Whether there is anything to draw."""
        return any(self._drawing)

    def draw(self, one: Judged) -> Judged:
        """Write what is wanted of one photo; one that can not be read again has an error then.

        Raises:
            InputError: It can not be written.
        """
        if one.map is None or not self.wanted:
            return one
        assert one.row.height is not None
        assert one.row.width is not None
        assert one.limits is not None
        limits = one.limits
        scores = map_at(one.map, (one.row.height, one.row.width))
        if self._drawing.overlays:
            try:
                photo = read(one.photo, self._judge)
            except InputError as error:
                return Judged(one.photo, _failed(one, str(error)), None)
            if photo.size != (one.row.width, one.row.height):
                return Judged(one.photo, _failed(one, "it changed while it was scored"), None)
            drawn = draw_overlay(photo, scores, limit=limits.pixel, colours=colours_of(limits))
            self._write(OVERLAYS, one.photo, ".jpg", drawn)
        if self._drawing.maps:
            self._write(MAPS, one.photo, ".npz", write_map(scores))
        if self._drawing.masks:
            self._write(MASKS, one.photo, ".png", draw_mask(scores, limits.pixel))
        return one

    def _write(self, kind: str, photo: Photo, ending: str, data: bytes) -> None:
        path = confined(self._folder, kind, name_of(photo, unique=self._unique) + ending)
        make_folder(path.parent)
        with written(path, by=self._unfinished) as file:
            file.write(data)


def colours_of(limits: Limits) -> tuple[float, float]:
    """Scores at the two ends of the colours of an overlay.

    Colour begins at a normal photo's usual peak, and is half way up at the limit.
    """
    usual = float(np.median(np.concatenate([own.peaks for own in limits.normal])))
    return usual, 2 * limits.pixel - usual


def _failed(one: Judged, why: str) -> Row:
    return one.row._replace(
        score=None, p_value=None, decision="error", threshold=None, regions="[]", error=plain(why)
    )


def name_of(photo: Photo, *, unique: bool) -> str:
    """The path of a photo's files below their folder, without an ending of theirs.

    It is the photo's path within the folder that the user named. Where that does not tell photos
    apart, or has signs that not every system takes, a hash of the photo's whole path follows.

    Args:
        photo: The photo.
        unique: Whether `Photo.below` differs from photo to photo.
    """
    parts = [part for part in photo.below.split("/") if part not in ("", ".", "..")]
    safe = [_safe(part) for part in parts]
    name = "/".join(safe)
    if unique and safe == parts:
        return name
    mark = hashlib.sha256(os.fsencode(photo.path)).hexdigest()[:12]
    return f"{name}-{mark}"


def _safe(part: str) -> str:
    kept = re.sub(r"[^\w.+=,@()\[\] -]", "_", part)
    return kept.encode("utf-8", "replace")[:_LONGEST].decode("utf-8", "ignore")
