"""The table of a prediction job, in shards: what is written stays, whatever ends the job.

A shard is a parquet file below `shards/`, written whole or not at all; `predictions.json` lists the
shards with their SHA-256 and a hash of all photos up to their end, and is replaced after each.
So a photo is in the table if its shard is in the list, and in no other case; files that are in no
list are written again. At the end shards become one `predictions.parquet` and `predictions.csv`.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxad.errors import InputError
from jaxad.files import confined, read_json, sha256, write_json, written
from jaxad.runs import record

MANIFEST = "predictions.json"
FORMAT = 2
SHARDS, MAPS, OVERLAYS, MASKS = FOLDERS = ("shards", "maps", "overlays", "masks")
TABLES = ("predictions.csv", "predictions.parquet")
_ROWS = 500
"""That are Python's at a time."""


class Row(NamedTuple):
    """One photo; the columns of the table. Of an unreadable one, all but the last are empty."""

    path: str
    category: str | None
    subclass: str = ""
    """What the detector took it for, where it does."""
    score: float | None = None
    """float32."""
    p_value: float | None = None
    decision: str = "error"
    """"good", "anomalous" or "error"."""
    threshold: float | None = None
    """The photo is anomalous if its score is above."""
    width: int | None = None
    height: int | None = None
    regions: str = "[]"
    """JSON: [{"box": [x0, y0, x1, y1], "area": pixels, "peak": score}, ...]."""
    model: str = ""
    error: str = ""
    """Why it could not be scored."""


_TYPES = {"score": "float32", "p_value": "float64", "threshold": "float64"}
_TYPES |= {"width": "int32", "height": "int32"}


def plain(name: str) -> str:
    r"""A path as text that every file can hold: bytes that are no UTF-8 become `\udcXX`."""
    return name.encode("utf-8", "backslashreplace").decode()


class Shards:
    """The table of one folder, as far as it is."""

    def __init__(self, ours: record.Record, settings: Mapping[str, Any]) -> None:
        """Take up what is there.

        Args:
            ours: The record of the folder.
            settings: All that decides a row; plain JSON.

        Raises:
            InputError: What is there was made with other settings, or is damaged.
        """
        self._ours = ours
        self._settings = json.loads(json.dumps(settings))
        self._about: dict[str, Any] = {"format": FORMAT, "settings": self._settings, "shards": []}
        path = confined(ours.folder, MANIFEST)
        if MANIFEST in ours.entries and path.is_file():
            self._about = self._read(path)

    def _read(self, path: Path) -> dict[str, Any]:
        mend = "add --overwrite to score all photos again, or choose another --out"
        about = read_json(path, "the list of shards", mend)
        shards = about.get("shards") if isinstance(about, dict) else None
        if not isinstance(shards, list) or about.get("format") != FORMAT:
            raise InputError(f"{path} is damaged or of another jaxad: {mend}")
        before = about.get("settings")
        if before != self._settings:
            every = {*(before if isinstance(before, dict) else ()), *self._settings}
            differ = sorted(k for k in every if not _same(before, self._settings, k))
            raise InputError(
                f"{path.parent} was begun with another {', '.join(differ)}: repeat the command as "
                f"it was, or {mend}"
            )
        for number, shard in enumerate(shards):
            file = confined(path.parent, SHARDS, _name(number))
            try:
                rows, digest = shard["rows"], shard["sha256"]
                good = type(rows) is int and rows > 0 and isinstance(shard["photos"], str)
                good = good and sha256(file) == digest
            except (OSError, KeyError, TypeError):
                good = False
            if not good:
                raise InputError(f"{file} is missing or damaged: {mend}")
        return about

    @property
    def rows(self) -> int:
        """How many photos are in the table."""
        return sum(shard["rows"] for shard in self._about["shards"])

    @property
    def ends(self) -> list[tuple[int, str]]:
        """Of each shard, how many photos there are up to its end, and their hash."""
        found, total = [], 0
        for shard in self._about["shards"]:
            total += shard["rows"]
            found.append((total, shard["photos"]))
        return found

    @property
    def summary(self) -> dict[str, Any] | None:
        """What `finish` has written, if nothing came after it."""
        return self._about.get("summary")

    def add(self, rows: Sequence[Row], photos: str) -> None:
        """Write the next shard and list it.

        Args:
            rows: In the order of the photos.
            photos: Hash of all photos up to its end.

        Raises:
            InputError: It can not be written.
        """
        pa, pq = _arrow()
        columns = {name: [getattr(row, name) for row in rows] for name in Row._fields}
        table = pa.table(columns, schema=_schema())
        path = self._ours.tree(SHARDS)
        path.mkdir(exist_ok=True)
        path /= _name(len(self._about["shards"]))
        with written(path) as file:
            pq.write_table(table, file)
        entry = {"rows": len(rows), "sha256": sha256(path), "photos": photos}
        about = {**self._about, "shards": [*self._about["shards"], entry]}
        about.pop("summary", None)
        self._write(about)

    def columns(self, *names: str) -> Iterator[dict[str, list[Any]]]:
        """Some columns of the table, part by part."""
        for shard in self._shards(names):
            for part in shard.to_batches(_ROWS):
                yield part.to_pydict()

    def _shards(self, names: Sequence[str]) -> Iterator[Any]:
        _, pq = _arrow()
        for number in range(len(self._about["shards"])):
            with pq.ParquetFile(confined(self._ours.folder, SHARDS, _name(number))) as file:
                # Without threads, each of which would keep memory of its own.
                yield file.read(list(names), use_threads=False)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Join the shards to one table, as CSV and as parquet, and write the summary.

        Raises:
            InputError: They can not be written.
        """
        _, pq = _arrow()
        text, binary = (self._ours.file(name) for name in TABLES)
        with (
            written(text) as csv_file,
            written(binary) as parquet_file,
            pq.ParquetWriter(parquet_file, _schema()) as writer,
        ):
            csv_file.write(_csv([Row._fields]))
            for shard in self._shards(Row._fields):
                writer.write_table(shard)
                for part in shard.to_batches(_ROWS):
                    csv_file.write(_csv(list(zip(*part.to_pydict().values()))))
        self._write({**self._about, "summary": dict(summary)})

    def _write(self, about: dict[str, Any]) -> None:
        write_json(self._ours.file(MANIFEST), about)
        self._about = about


def _same(one: Any, other: Any, key: str) -> bool:
    return isinstance(one, dict) and key in one and key in other and one[key] == other[key]


def _arrow() -> tuple[Any, Any]:
    """Import pyarrow. Its own allocator would keep tens of megabytes for tables of one."""
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # read when it first allocates
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pa, pq


def _schema() -> Any:
    pa, _ = _arrow()
    types = {name: getattr(pa, _TYPES.get(name, "string"))() for name in Row._fields}
    return pa.schema(list(types.items()))


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _name(number: int) -> str:
    return f"{number:06}.parquet"
