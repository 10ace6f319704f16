"""The prediction job: score what a user names, write one table, go on where a killed job ended."""

from __future__ import annotations

import hashlib
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from jaxad.core import InputError
from jaxad.data.pipeline import decoding_threads
from jaxad.data.sources import Photo, Sources
from jaxad.drift import Drift
from jaxad.progress import Progress
from jaxad.runs import lock, record
from jaxad.runs.drawings import NOTHING, Drawing, Drawings
from jaxad.runs.judged import FILE as PAGE
from jaxad.runs.judged import RARE, write_page
from jaxad.runs.models import Judge
from jaxad.runs.rows import Decoded, Judged, decode, judged, start
from jaxad.runs.shards import MANIFEST, TABLES, Row, Shards
from jaxad.scorer import ahead

ROWS = 5000
"""Of a shard, at most."""
SECONDS = 30.0
"""That a shard takes, about: what a killed job has to do again."""
GROUP = 1000
"""Photos of a batch, at most, those that can not be read included."""
_OURS = (MANIFEST, PAGE, *TABLES, "shards/", "maps/", "overlays/", "masks/")


class Limit(NamedTuple):
    """When the job gives up, and what it begins with."""

    max_errors: int | None = None
    """Unreadable photos that are still put up with."""
    overwrite: bool = False
    """Whether an earlier table goes."""


NONE = Limit()


def predict(
    names: Sequence[str],
    out: Path,
    judge: Judge,
    *,
    drawing: Drawing = NOTHING,
    limit: Limit = NONE,
    listed: IO[bytes] | None = None,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Score photos into the tables `predictions.csv` and `predictions.parquet` of a folder.

    The same call goes on where an earlier one was stopped or killed, and scores what has been
    added at the end of the photos; memory does not grow with their number.

    Args:
        names: Files, folders, patterns, "-"; see `jaxad.data.sources`.
        out: Folder of the results; made if needed, left out of the photos.
        judge: Who scores.
        drawing: What is to be written of each photo besides.
        limit: When to give up; whether to begin anew.
        listed: The list that "-" stands for.
        check: Called before every batch; may raise `errors.Stopped`.

    Returns:
        The summary that `predictions.json` has too.

    Raises:
        InputError: Whatever a user can mend; what is scored by then is kept.
    """
    sources = Sources(names, listed=listed, but=out)
    if next(iter(sources), None) is None:
        raise InputError("the list names no photo")
    with lock.locked(record.usable(out), check=check):
        ours = _claimed(out, overwrite=limit.overwrite)
        table = Shards(ours, _settings(judge, drawing))
        total, digest = _walked(sources, table, check)
        summary = table.summary
        if summary is None or total > table.rows:
            job = _Job(judge, table, digest, limit, total)
            drawings = Drawings(ours, judge, drawing, unique=sources.is_one_folder)
            if total > table.rows:
                job.run(_rest(sources, table), drawings, check)
            summary = {"arguments": list(names), **job.summary()}
            table.finish(summary)
            if drawing.overlays:
                write_page(ours, table, sources, judge, summary)
    if summary["errors"] == summary["photos"]:
        raise InputError(
            f"none of {summary['photos']} photos could be read: {out / TABLES[0]} says why"
        )
    return summary


def _claimed(out: Path, *, overwrite: bool) -> record.Record:
    ours = record.read(out) or record.Record(out)
    if not set(ours.entries) <= set(_OURS):
        raise InputError(f"{out} is the work directory of a training: choose another --out")
    if overwrite:
        ours.check_clear()
        ours.clear()
        ours.write()
    ours.sweep()
    return ours


def _settings(judge: Judge, drawing: Drawing) -> dict[str, Any]:
    return {
        "model": judge.id,
        "category": judge.category,
        "false alarm rate": judge.false_alarm,
        "limit of scores": judge.limits.score,
        "limit of pixels": judge.limits.pixel,
        "limits of subclasses": {n: [own.score, own.pixel] for n, own in judge.routed.items()},
        "batch size": judge.batch_size,
        "run time": judge.runtime,
        **{f"choice of {name}": wanted for name, wanted in drawing._asdict().items()},
    }


def _walked(sources: Sources, table: Shards, check: Callable[[], None]) -> tuple[int, Any]:
    """Count the photos, and see that the table has the first of them.

    Returns:
        How many there are, and the hash of those in the table.
    """
    digest, total = hashlib.sha256(), 0
    ends = iter(table.ends)
    before, (end, wanted) = 0, next(ends, (0, ""))
    for total, photo in enumerate(sources, 1):
        if total % ROWS == 0:
            check()
        if total > end:
            continue
        _add(digest, photo)
        if total == end:
            if digest.hexdigest() != wanted:
                raise InputError(
                    f"the photos are others than those of the table: between the {before + 1}th "
                    f"and the {end}th one is new, gone or elsewhere: bring them back as they were, "
                    "or add --overwrite to score all photos again"
                )
            before, (end, wanted) = end, next(ends, (end, ""))
    if total < table.rows:
        raise InputError(
            f"the table has {table.rows} photos and {total} are named: name all of them again, or "
            "add --overwrite to score all photos again"
        )
    return total, digest


def _rest(sources: Sources, table: Shards) -> Iterator[Photo]:
    """The photos that come after those in the table."""
    digest, done = hashlib.sha256(), table.rows
    wanted = table.ends[-1][1] if done else digest.hexdigest()
    for number, photo in enumerate(sources):
        if number < done:
            _add(digest, photo)
            continue
        if number == done and digest.hexdigest() != wanted:
            raise InputError("photos came or went while they were counted: run again")
        yield photo


def _add(digest: Any, photo: Photo) -> None:
    digest.update(photo.path.encode("utf-8", "surrogateescape") + b"\0")


class _Job:
    """What is known while photos are scored: all of it small."""

    def __init__(self, judge: Judge, table: Shards, digest: Any, limit: Limit, total: int) -> None:
        self._judge, self._table, self._digest = judge, table, digest
        self._limit, self._total = limit, total
        self._counts: Counter[str] = Counter()
        self._rare = 0
        self._drift = new_drift(judge)
        self._rows: list[Row] = []
        self._done, self._seconds, self._told = 0, 0.0, False
        for part in table.columns("decision", "score", "p_value"):
            self._count(part["decision"], part["score"], part["p_value"])

    def run(self, photos: Iterator[Photo], drawings: Drawings, check: Callable[[], None]) -> None:
        """Score photos, shard by shard; what is scored is kept, whatever comes."""
        judge = self._judge
        score = judge.compiled(judge.batch_size)
        begun = time.monotonic()
        progress = Progress("predict", self._total, "photos", done=self._table.rows)
        pool = ThreadPoolExecutor(decoding_threads())
        try:
            decoded = _decoded(photos, judge, pool)
            batches = _batches(decoded, judge.batch_size)
            shard = begun
            each = pool.map if drawings.wanted else map
            for batch, started in ahead(batches, lambda batch: start(batch, score, judge)):
                check()
                found = list(each(drawings.draw, judged(batch, started, judge)))
                self._take(found)
                progress.advance(len(found), self._note())
                if len(self._rows) >= ROWS or time.monotonic() - shard > SECONDS:
                    self._keep()
                    shard = time.monotonic()
        finally:
            # A full disk ends here, too: then what came before is in the shards.
            pool.shutdown(cancel_futures=True)
            self._keep()
            self._seconds = time.monotonic() - begun

    def _take(self, found: Sequence[Judged]) -> None:
        for one in found:
            _add(self._digest, one.photo)
        rows = [one.row for one in found]
        self._rows += rows
        self._done += len(rows)
        self._count(*zip(*((row.decision, row.score, row.p_value) for row in rows)))
        most = self._limit.max_errors
        if most is not None and self._counts["error"] > most:
            last = next(row for row in reversed(rows) if row.error)
            raise InputError(
                f"{self._counts['error']} photos could not be read, --max-errors is {most}; the "
                f"last: {last.error}; with a larger one the same command goes on"
            )

    def _count(self, decisions: Any, scores: Any, p_values: Any) -> None:
        self._counts.update(decisions)
        self._rare += sum(p <= RARE for p in p_values if p is not None)
        if self._drift is not None:
            passed = [i for i, decision in enumerate(decisions) if decision == "good"]
            values = [[of[i] for i in passed] for of in (scores, p_values)]
            self._drift.add(np.asarray(values[0], np.float32), np.asarray(values[1], np.float64))

    def _keep(self) -> None:
        if self._rows:
            self._table.add(self._rows, self._digest.hexdigest())
            self._rows = []
        verdict = None if self._drift is None else self._drift.latest()
        if verdict is not None and verdict.drifted and not self._told:
            print(f"\nafter {self._table.rows} photos: {verdict.text()}", file=sys.stderr)
            self._told = True

    def _note(self) -> str:
        found = ((self._counts["anomalous"], "anomalous"), (self._counts["error"], "unreadable"))
        return ", ".join(f"{count} {name}" for count, name in found if count)

    def summary(self) -> dict[str, Any]:
        """What came of it."""
        drift = None
        if self._drift is not None:
            both = {"all": self._drift.verdict(), "latest": self._drift.latest()}
            drift = {
                k: {**_plain(v), "drifted": v.drifted, "text": v.text()} for k, v in both.items()
            }
        return {
            "photos": self._table.rows,
            **{kind: self._counts[name] for kind, name in _KINDS.items()},
            "rare": self._rare,
            "photos_per_second": round(self._done / self._seconds, 2) if self._done else None,
            "drift": drift,
        }


_KINDS = {"good": "good", "anomalous": "anomalous", "errors": "error"}


def _plain(verdict: Any) -> dict[str, Any]:
    """Of a verdict, with null for what is not known."""
    return {k: None if v != v else v for k, v in verdict._asdict().items()}


def new_drift(judge: Judge) -> Drift | None:
    """What compares passed photos with the calibration; None where its category is not known."""
    return Drift(*judge.lines.passed()) if len(judge.limits.normal) == 1 else None


def _decoded(photos: Iterator[Photo], judge: Judge, pool: ThreadPoolExecutor) -> Iterator[Decoded]:
    """Decode in threads, a bounded number ahead; in order."""
    waiting: deque[Future[Decoded]] = deque()
    most = max(2 * judge.batch_size, 32)
    for photo in photos:
        waiting.append(pool.submit(decode, photo, judge))
        if len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _batches(decoded: Iterator[Decoded], size: int) -> Iterator[list[Decoded]]:
    """Batches of so many readable photos, with the others between them."""
    batch: list[Decoded] = []
    readable = 0
    for one in decoded:
        batch.append(one)
        readable += one.pixels is not None
        if readable == size or len(batch) == max(GROUP, size):
            yield batch
            batch, readable = [], 0
    if batch:
        yield batch
