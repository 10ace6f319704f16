"""The update job: a trained memory bank learns further photos and forgets others.

What was found with the old bank is marked before the new one stands, so that nothing that is stale
is ever taken for fresh: the detector's calibration goes, results and page say what they are of.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import escape

from jaxad.config import load_config
from jaxad.core import InputError
from jaxad.data.check import require_readable
from jaxad.data.digests import file_digests, photo_digests
from jaxad.data.fingerprint import DIGITS, contents
from jaxad.data.listing import images_below
from jaxad.data.manifest import GOOD, Manifest, Record, some
from jaxad.data.sources import check_regular
from jaxad.files import confined, read_json, write_bytes, write_json, write_text
from jaxad.ops.precision import rounded
from jaxad.parallel import data_parallel
from jaxad.runs import checkpoint, lock, record
from jaxad.runs.calibrations import FILE as CALIBRATION
from jaxad.runs.calibrations import forget_calibration
from jaxad.runs.dataset import read_trained_on, reading_of
from jaxad.runs.replicates import folders
from jaxad.runs.train import budget_of
from jaxad.runs.workdir import (
    CHECKPOINTS,
    PHOTOS,
    Trained,
    detector_of,
    opened,
    photos_of_bank,
    trained_detector,
)
from jaxad.training.extract import Extractor
from jaxad.training.fit import Passes

STALE = "stale"
"""In results: the detectors whose bank is another by now."""
FIGURES = ("results.json", "audit.json")
PAGE = ("report", "index.html")
MOST = 64 << 20
"""Bytes of a list of photos."""


class Updated(NamedTuple):
    """What an update has done."""

    detector: str
    added: int
    """Photos."""
    forgotten: int
    gone: int
    """Members that were of forgotten photos."""
    before: int
    """Members."""
    members: int


def update(
    workdir: Path,
    *,
    add: Path | None = None,
    forget: Sequence[Path] = (),
    category: str | None = None,
    check: Callable[[], None] = lambda: None,
) -> Updated:
    """Add the photos of a folder to a detector's bank, and take others out of it.

    Members of photos that stay do so; of the new photos' patches the method's sampler takes as many
    as keep the share. A photo is known by what it holds, whatever it is called now.

    Args:
        workdir: What `jaxad train` wrote.
        add: Normal photos, at any depth; those that the bank has are left out.
        forget: Files of photos that the bank has learnt.
        category: Of the photos; may be left out where there is one.
        check: Called before every batch; may raise `errors.Stopped`.

    Raises:
        InputError: Whatever a user can mend; all is as it was then.
    """
    if add is None and not forget:
        raise InputError("name photos by --add, --forget or --forget-list")
    with lock.locked(opened(workdir), check=check):
        config, hashes = load_config(confined(workdir, "config.json"))
        if len(folders(workdir)) > 1:
            raise InputError(
                f"{workdir} has replicates, whose mean would be of other banks: train without "
                "train.replicates to update one"
            )
        name, category = detector_of(workdir, config, category)
        own = trained_detector(workdir, name, config, hashes)
        if own.detector.method.update is None:
            raise InputError(
                f"{config.method.name} keeps no bank of photos that could be updated: train it "
                "again with all photos"
            )
        known = np.asarray(photos_of_bank(workdir, name), dtype=str)
        stay = ~np.isin(known, _digests_of(forget, known))
        records, new = _new(workdir, add, category, known) if add else ((), [])
        if not records and stay.all():
            raise InputError(f"{add} has no photo that the bank of {name} has not: nothing to do")
        before = own.variables["method"]
        of = np.asarray(before["bank"]["photo"])
        same = len(of) == len(before["bank"]["members"])
        if not same or not np.isin(of, np.arange(len(known))).all():
            raise InputError(f"{workdir}: its bank does not say which photos it is of: train again")
        images = _images(own, config, add or workdir, records, check)
        after = own.detector.method.update(before, images, stay=stay)
        counts = [len(bank["bank"]["members"]) for bank in (before, after)]
        gone = int((~stay)[of].sum())
        found = Updated(name, len(records), int((~stay).sum()), gone, *counts)
        about = checkpoint.about(confined(workdir, CHECKPOINTS, name))
        about |= {PHOTOS: [*known[stay].tolist(), *new]}
        ours = record.read(workdir) or record.Record(workdir)
        with _marked_stale(workdir, ours, name):
            checkpoint.save(ours.tree(CHECKPOINTS, name), after, about)
        return found


def paths_of(listed: Path) -> list[Path]:
    """Read a list of paths, one a line.

    Raises:
        InputError: It can not be read.
    """
    check_regular(str(listed))
    with listed.open("rb") as file:
        data = file.read(MOST + 1)
    if len(data) > MOST:
        raise InputError(f"{listed} has more than {MOST >> 20} MB: split it")
    lines = data.decode(errors="surrogateescape").splitlines()
    return [Path(line) for line in lines if line]


def _digests_of(forget: Sequence[Path], known: np.ndarray) -> list[str]:
    for path in forget:
        check_regular(str(path))
    digests = {path: digest[:DIGITS] for path, digest in file_digests(forget).items()}
    strange = [str(path) for path, digest in digests.items() if digest not in known]
    if strange:
        raise InputError(f"the bank has no photo of what is in {some(strange)}: leave it out")
    return [*digests.values()]


def _new(
    workdir: Path, add: Path, category: str, known: np.ndarray
) -> tuple[tuple[Record, ...], list[str]]:
    """The photos of a folder that are not in the bank, each content once, and their digits."""
    names = [path.relative_to(add).as_posix() for path in images_below(add)]
    if not names:
        raise InputError(f"{add} has no photos: name a folder of normal ones")
    manifest = Manifest(add, tuple(Record(name, category, "", "train", GOOD) for name in names))
    require_readable(manifest)
    digests = {path: digest[:DIGITS] for (_, path), digest in photo_digests(manifest).items()}
    judged = contents(read_trained_on(workdir).fingerprint, split="test")
    tested = [name for name, digest in digests.items() if digest in judged]
    if tested:
        raise InputError(
            f"{len(tested)} photos in {add} are test photos ({some(tested)}), whose figures would "
            "say nothing any more: leave them out"
        )
    first = {digest: name for name, digest in reversed(digests.items()) if digest not in known}
    chosen = {name: digest for name, digest in digests.items() if first.get(digest) == name}
    if len(chosen) < len(names):
        print(
            f"{len(names) - len(chosen)} of {len(names)} photos in {add} are in the bank already, "
            "or copies of others: left out",
            file=sys.stderr,
        )
    records = tuple(record for record in manifest.records if record.path in chosen)
    return records, [chosen[record.path] for record in records]


def _images(
    own: Trained, config: Any, root: Path, records: Sequence[Record], check: Callable[[], None]
) -> Passes:
    """See `jaxad.core.Images`; nothing is kept."""
    parallel = data_parallel(config.train.parallel)
    budget = budget_of(config, parallel)
    variables = rounded(own.backbones.variables, budget.dtype)
    extractor = Extractor(
        own.backbones._replace(variables=variables),
        own.detector,
        reading_of(config, own.backbones),
        parallel,
        batch_size=budget.score_batch,
        capacity=len(records),
        dtype=budget.cache_dtype,
        check=check,
    )

    def begin() -> Iterator[Any]:
        for found in extractor.images(records, root, None, np.arange(len(records))):
            check()
            yield found, {}

    return Passes(begin, len(records))


@contextmanager
def _marked_stale(workdir: Path, ours: record.Record, name: str) -> Iterator[None]:
    """Mark what was found with the old bank; all is as before where what is done then fails."""
    figures = [confined(workdir, file) for file in FIGURES]
    page, calibration = confined(workdir, *PAGE), confined(workdir, CALIBRATION)
    before = {p: p.read_bytes() for p in (*figures, page, calibration) if p.is_file()}
    try:
        for path in figures:
            found = read_json(path, "results", "run jaxad evaluate") if path in before else None
            if isinstance(found, dict):
                there = found.get(STALE)
                others = [n for n in there if n != name] if isinstance(there, list) else []
                write_json(path, {**found, STALE: [*others, name]})
        if page in before:
            told = f"<p><strong>The bank of {escape(name)} has changed: jaxad evaluate</strong></p>"
            text = before[page].decode(errors="replace")
            write_text(page, text.replace("<main>", f"<main>\n{told}", 1))
        if calibration in before:
            forget_calibration(ours, name)
        yield
    except BaseException:
        for path, data in before.items():
            write_bytes(path, data)
        raise
