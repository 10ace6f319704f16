"""The calibration job: thresholds from new normal photos, or for another rate from the same."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from jaxad.calibration import Calibration
from jaxad.config import load_config
from jaxad.core import InputError
from jaxad.data.check import require_readable
from jaxad.data.digests import photo_digests
from jaxad.data.fingerprint import DIGITS, contents
from jaxad.data.listing import images_below
from jaxad.data.manifest import GOOD, Manifest, Record, some
from jaxad.files import confined
from jaxad.normal import Normal
from jaxad.runs import lock, record
from jaxad.runs.calibrations import read_calibrations, write_calibrations
from jaxad.runs.dataset import read_trained_on, reading_of
from jaxad.runs.score_category import normal_scores
from jaxad.runs.workdir import detector_of, opened, photos_of_bank, routed_by, trained_detector
from jaxad.scorer import make_scorer


def calibrate(
    workdir: Path,
    folder: Path | None = None,
    *,
    false_alarm: float | None = None,
    confidence: float | None = None,
    category: str | None = None,
    subclass: str = "",
    add: bool = False,
    leave_out: Sequence[str] = (),
    check: Callable[[], None] = lambda: None,
) -> dict[str, Calibration]:
    """Refit a work directory's calibration: from new photos, or to another rate from the same.

    Photos that were trained on are left out, and with `add` those that calibrate already.

    Args:
        workdir: What `jaxad train` wrote.
        folder: Normal photos, at any depth, that training has not seen; None: the scores that are
            kept.
        false_alarm: α; None: as before, or as the configuration has it.
        confidence: 1 - δ; None: as before; 0: on average.
        category: Of the photos; may be left out where there is one.
        subclass: Of the photos.
        add: Whether scores that are kept of this category (and subclass) stay.
        leave_out: Paths of photos whose kept scores count no more, as they are named there or as
            files. They stay out, whatever their names, until the detector is trained again or
            calibration of their category (and subclass) begins anew by `folder` without `add`.
        check: Called before every batch; may raise `errors.Stopped`.

    Returns:
        All that is calibrated now, by detector.

    Raises:
        InputError: Whatever a user can mend; nothing is written then.
    """
    with lock.locked(opened(workdir), check=check):
        config, hashes = load_config(confined(workdir, "config.json"))
        there: dict[str, Calibration] = {}
        try:
            there = read_calibrations(workdir)
        except InputError:
            if folder is None:  # else new photos replace it
                raise
        kept = {name: dict(own.categories) for name, own in there.items()}
        left = {name: dict(own.left_out) for name, own in there.items()}
        _leave_out(kept, left, leave_out)
        if folder is not None:
            detector, category = detector_of(workdir, config, category)
            normal = _measured(
                workdir, folder, config, hashes, detector, category, subclass, check=check
            )
            own = kept.setdefault(detector, {})
            out = left.setdefault(detector, {})
            if category in out:
                forgotten = [not add and name == subclass for name in out[category].subclasses]
                out[category], normal = _still_out(out[category], forgotten, normal)
            if category in own:
                _say_what_is_odd(there[detector], category, normal)
                stay = [add or name != subclass for name in own[category].subclasses]
                normal = _joined(own[category], stay, normal)
            own[category] = normal
        before = next(iter(there.values()), None) or config.calibrate
        if false_alarm is None:
            false_alarm = before.false_alarm
        if confidence is None:
            confidence = before.confidence
        found = {
            name: Calibration(
                own,
                false_alarm,
                confidence or None,
                {category: out for category, out in left.get(name, {}).items() if len(out.scores)},
            )
            for name, own in kept.items()
        }
        for name, calibration in found.items():
            _say_what_moved(calibration, there.get(name), workdir)
        ours = record.read(workdir) or record.Record(workdir)
        write_calibrations(ours, {name: own.to_json() for name, own in found.items()})
        return found


def _leave_out(
    kept: Mapping[str, dict[str, Normal]],
    left: Mapping[str, dict[str, Normal]],
    photos: Sequence[str],
) -> None:
    """Move what photos scored from one to the other.

    Raises:
        InputError: One of them does not calibrate.
    """
    known = {photo for own in kept.values() for normal in own.values() for photo in normal.photos}
    names = {_known(photo, known - {""}) for photo in photos}
    for detector, own in kept.items():
        for category, normal in own.items():
            out = np.isin(np.asarray(normal.photos, object), list(names))
            if out.any():
                gone, before = normal.rows(np.flatnonzero(out)), left[detector].get(category)
                left[detector][category] = before.joined(gone) if before else gone
                own[category] = normal.rows(np.flatnonzero(~out))


def _known(photo: str, known: Set[str]) -> str:
    """The name by which a photo calibrates: as it is given, or as the end of its path."""
    ends = [name for name in known if photo == name or photo.endswith(f"/{name}")]
    if not ends:
        raise InputError(
            f"{photo} does not calibrate: name photos that do, with or without folders before, "
            f"such as {some(sorted(known)) or 'none, as calibration.json names none'}"
        )
    return max(ends, key=len)


def _measured(
    workdir: Path,
    folder: Path,
    config: Any,
    hashes: Mapping[str, str],
    detector: str,
    category: str,
    subclass: str,
    *,
    check: Callable[[], None],
) -> Normal:
    """What one detector gives the photos of a folder."""
    photos = images_below(folder)
    if not photos:
        raise InputError(f"{folder} has no photos: name a folder of normal ones")
    names = [path.relative_to(folder).as_posix() for path in photos]
    records = tuple(Record(name, category, subclass, "calibration", GOOD) for name in names)
    manifest = Manifest(folder, records)
    require_readable(manifest)
    own = {path: digest for (_, path), digest in photo_digests(manifest).items()}
    before = read_trained_on(workdir).fingerprint
    learnt, judged = (contents(before, split=split) for split in ("train", "test"))
    learnt |= set(photos_of_bank(workdir, detector))
    seen = [name for name, digest in own.items() if digest[:DIGITS] in learnt]
    if seen:
        told = f"{len(seen)} of {len(records)} photos in {folder} were trained on ({some(seen)})"
        if len(seen) == len(records):
            raise InputError(f"{told}, so that their scores promise nothing: name others")
        print(f"{told}: left out, as their scores promise nothing", file=sys.stderr)
        records = tuple(record for record in records if record.path not in set(seen))
    both = [r.path for r in records if own[r.path][:DIGITS] in judged]
    if both:
        print(
            f"{len(both)} of these photos are test photos ({some(both)}): false alarms among them "
            "say nothing of the threshold any more",
            file=sys.stderr,
        )
    twice = len(own) - len(set(own.values()))
    if twice:
        print(f"{twice} photos in {folder} are copies of others", file=sys.stderr)
    built, variables, backbones = trained_detector(workdir, detector, config, hashes)
    reading, batch_size = reading_of(config, backbones), config.score.batch_size
    subclasses = routed_by(workdir, detector, built)
    scorer = make_scorer(
        built,
        variables,
        batch_size=batch_size,
        size=reading.size,
        runtime=config.score.runtime,
        routed=bool(subclasses),
    )
    return normal_scores(
        category,
        records,
        folder,
        scorer.score,
        reading=reading,
        batch_size=batch_size,
        subclasses=subclasses,
        check=check,
    )


def _say_what_is_odd(before: Calibration, category: str, new: Normal) -> None:
    """Say where photos score as anomalous ones did: they may be such."""
    try:
        limit = before.limits(category).score
    except InputError:  # too few
        return
    above = int((new.scores > limit).sum())
    if above > 2 * before.false_alarm * len(new.scores) + 1:
        print(
            f"{above} of {len(new.scores)} photos score above the limit so far ({limit:.6g}): are "
            f"they all of normal {category}?",
            file=sys.stderr,
        )


def _say_what_moved(now: Calibration, before: Calibration | None, workdir: Path) -> None:
    """Say how limits have moved.

    Raises:
        InputError: Photos are too few.
    """
    for name in now.categories:
        try:
            limit = now.limits(name).score
        except InputError as error:
            raise InputError(
                f"{error}. More photos: jaxad calibrate --workdir {workdir} FOLDER --add"
            ) from None
        try:
            last = before.limits(name).score if before else limit
        except InputError:  # none of this category, or too few
            continue
        if last != limit:
            print(f"{name}: the limit of scores was {last:.6g}", file=sys.stderr)


def _still_out(left: Normal, forgotten: Sequence[bool], new: Normal) -> tuple[Normal, Normal]:
    """What stays left out, and the new photos that are not among it."""
    begun = left.rows(np.flatnonzero(forgotten))
    stay = left.rows(np.flatnonzero(~np.asarray(forgotten, bool)))
    out = _among(new, stay)
    anew = "they count again, as calibration begins anew without --add"
    for again, said in ((out, "left out again"), (_among(new, begun) & ~out, anew)):
        if again.any():
            print(
                f"{int(again.sum())} of these photos were left out before "
                f"({some(new.photos[i] for i in np.flatnonzero(again))}): {said}",
                file=sys.stderr,
            )
    return stay, new.rows(np.flatnonzero(~out))


def _joined(before: Normal, stay: Sequence[bool], new: Normal) -> Normal:
    """Those that stay, and of the new photos those that are not among them."""
    kept = before.rows(np.flatnonzero(stay))
    there = _among(new, kept)
    if there.any():
        print(
            f"{int(there.sum())} photos are among those that calibrate already: left out",
            file=sys.stderr,
        )
    return kept.joined(new.rows(np.flatnonzero(~there)))


def _among(new: Normal, old: Normal) -> np.ndarray:
    """Which photos are the same as others, `(n,)` bool: by their scores, whatever their names."""
    there = set(zip(old.scores.tolist(), old.peaks.tolist()))
    return np.asarray([p in there for p in zip(new.scores.tolist(), new.peaks.tolist())], bool)
