"""The export job: one file of a trained detector, left only where it scores as evaluation does."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxad.calibration import from_json
from jaxad.config import apply_changes, check_config, load_config
from jaxad.core import InputError, Scores
from jaxad.data.reading import Reading
from jaxad.detector import Detector
from jaxad.export import archive, generated, manifest
from jaxad.export.reader import load as load_file
from jaxad.files import confined, refusal, write_bytes
from jaxad.recipes.recipe import Backbones
from jaxad.runs.calibrations import calibration_of, line_of
from jaxad.runs.dataset import read_dataset, read_trained_on, reading_of, reads_upright
from jaxad.runs.export_file import digest, file_of, provenance
from jaxad.runs.workdir import detectors, opened, routed_by, trained_detector
from jaxad.scorer import make_scorer

PLATFORMS = ("cpu", "cuda", "tpu")
PHOTOS = 16
"""The most that are scored by the file and by its work directory."""
TOLERANCE = 1e-5
"""Of maps and image scores, in parts of their spread over what is scored."""
BATCH = 8
"""The most images at a time."""
CHANGES = ("weights", "data.root", "data.join", "data.prepared", "data.workers")
"""What of the configuration may be told anew: where weights and photos are. What decides pixels is
the training's."""


class Subject(NamedTuple):
    """A detector of a work directory, and what its file says of it."""

    name: str
    categories: tuple[str, ...]
    detector: Detector
    variables: Any
    config: Any
    backbones: Backbones
    reading: Reading
    trained_on: Mapping[str, Any]
    subclasses: tuple[str, ...]
    """That it takes photos for."""


def export(
    workdir: Path,
    out: Path,
    *,
    detector: str | None = None,
    platforms: Sequence[str] = PLATFORMS,
    changes: Sequence[str] = (),
    photos: bool = True,
    overwrite: bool = False,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Write a trained detector as one file that `jaxad.export.load` reads.

    The work directory is only read, also while it is trained in. The file is read back, and scores
    photos of the data set and generated images; it is left only if it does as the work directory.

    Args:
        workdir: What `jaxad train` wrote.
        out: The file.
        detector: Name of a category (or "all"); may be left out where there is only one.
        platforms: What it is to run on, of `manifest.PLATFORMS`.
        changes: `--config.a.b=VALUE` for keys of `CHANGES`.
        photos: Whether to compare by photos of the data set, too.
        overwrite: Whether to replace a file of `jaxad export`.
        check: Called between the steps; may raise `errors.Stopped`.

    Returns:
        "id", "bytes", "platforms", "lines" (what each category's photos are judged by, in words),
        "photos" (how many were compared), "map" and "image": by how much these differ at most, in
        parts of their spread.

    Raises:
        InputError: Whatever a user can mend; nothing is written then.
    """
    unknown = sorted(set(platforms) - set(manifest.PLATFORMS))
    if unknown or not platforms:
        known = ", ".join(manifest.PLATFORMS)
        raise InputError(f"--platforms {','.join(platforms)}: name some of {known}")
    here = jax.export.default_export_platform()
    if here not in platforms:
        raise InputError(
            f"--platforms {','.join(platforms)}: this is {here}, where the file is compared with "
            f"its work directory; add {here}, or set JAX_PLATFORMS"
        )
    _see_that_it_may_be_written(out, overwrite)
    own = subject_of(workdir, detector, changes)
    images = photos_of(own) if photos else np.zeros((0, *own.reading.size, 3), np.uint8)
    check()
    made_up = generated.images(own.reading.size)
    every = np.concatenate([images, made_up])
    expected = _scores(_scorer(own), every, check)
    kept = generated.record(*(value[len(images) :] for value in expected[:2]))
    about = manifest.About(
        detector=own.name,
        method=own.config.method.name,
        categories=own.categories,
        size=own.reading.size,
        resample=own.reading.resample,
        upright=reads_upright(own.config),
        platforms=platforms,
        check=kept,
        subclasses=own.subclasses,
    )
    data, identity = file_of(own.detector, own.variables, about, texts=_texts(workdir, own))
    check()
    temporary = out.with_name(f".jaxad-{secrets.token_hex(8)}.tmp")
    try:
        write_bytes(temporary, data)
        exported = load_file(temporary)
        found = _scores(exported.routed if own.subclasses else exported.score, every, check)
        differences = {
            name: max(
                generated.relative(before[part], now[part])
                for part in (slice(0, len(images)), slice(len(images), None))
                if len(before[part])
            )
            for name, before, now in zip(Scores._fields, expected, found)
        }
        for name, difference in differences.items():
            if not difference <= TOLERANCE:
                raise InputError(
                    f"{out} is not written: its {name} scores differ from those of {workdir} by "
                    f"{difference:.1e} of their spread, more than {TOLERANCE:g}; report this, with "
                    "your configuration"
                )
        if not np.array_equal(expected[2:], found[2:]):
            raise InputError(
                f"{out} is not written: it takes photos for other subclasses than {workdir} does; "
                "report this, with your configuration"
            )
        _see_that_it_may_be_written(out, overwrite)  # minutes may have passed
        try:
            temporary.replace(out)
        except OSError as error:
            raise refusal("write", out, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    told: dict[str, Any] = {
        "id": identity,
        "bytes": len(data),
        "platforms": list(platforms),
    }
    drawn = from_json(exported.calibration) if exported.calibration is not None else None
    told["lines"] = [line_of(drawn, name) for name in drawn.categories] if drawn else []
    return {**told, "photos": len(images), **differences}


def _see_that_it_may_be_written(out: Path, overwrite: bool) -> None:
    if out.is_symlink() or out.exists():
        if not overwrite:
            raise InputError(f"{out} is there already: name another file, or give --overwrite")
        try:
            ours = next(archive.read(out))[0] == archive.MANIFEST
        except (InputError, StopIteration):
            ours = False
        if not ours:
            raise InputError(
                f"{out} was not written by jaxad export: move it away, or name another"
            )
    if not out.parent.is_dir():
        raise InputError(f"{out.parent} is no folder: make it first")


def subject_of(workdir: Path, name: str | None, changes: Sequence[str]) -> Subject:
    """Read a detector of a work directory; see `export` for the arguments.

    Raises:
        InputError: It is not there, or what it needs is not.
    """
    workdir = opened(workdir)
    config, hashes = load_config(confined(workdir, "config.json"))
    apply_changes(config, changes, only=CHANGES)
    check_config(config)
    names = detectors(workdir)
    if name is None and len(names) == 1:
        name = names[0]
    if name is None or name not in names:
        asked = "" if name is None else f", not {name!r}"
        raise InputError(f"{workdir} has detectors {names}: name one of them by --detector{asked}")
    detector, variables, backbones = trained_detector(workdir, name, config, hashes)
    data = read_trained_on(workdir)
    categories = tuple(sorted(data.n_train)) if config.data.one_for_all else (name,)
    return Subject(
        name,
        categories,
        detector,
        variables,
        config,
        backbones,
        reading_of(config, backbones),
        {
            "photos": {n: data.n_train.get(n, 0) for n in categories},
            "fingerprint_sha256": digest(data.fingerprint),
        },
        routed_by(workdir, name, detector),
    )


def photos_of(own: Subject) -> np.ndarray:
    """Up to `PHOTOS` photos of the detector's categories, taken evenly of all splits."""
    mend = (
        "name where the photos are now by --config.data.root=DIR, or compare by generated images "
        "alone: --no-photos"
    )
    try:
        data = read_dataset(own.config)
    except InputError as error:
        raise InputError(f"{error} ({mend})") from error
    records = [record for record in data.records if record.category in own.categories]
    records.sort(key=lambda record: (record.split, record.category, record.path))
    if not records:
        raise InputError(f"{own.config.data.root} has no photos of {own.name}: {mend}")
    count = min(PHOTOS, len(records))
    chosen = [records[i * len(records) // count] for i in range(count)]
    batches = own.reading.batches(type(data)(data.root, tuple(chosen)), count)
    (batch,) = batches
    return np.asarray(batch["image"])


def _scorer(own: Subject) -> Callable[[Any], Any]:
    return make_scorer(
        own.detector,
        own.variables,
        batch_size=BATCH,
        size=own.reading.size,
        routed=bool(own.subclasses),
    ).score


def _scores(
    score: Callable[[Any], Any], images: np.ndarray, check: Callable[[], None]
) -> tuple[np.ndarray, ...]:
    """Maps, image scores (and subclasses), computed by batches of one size: one program."""
    parts = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        padded = np.pad(batch, [(0, BATCH - len(batch)), (0, 0), (0, 0), (0, 0)])
        parts.append([np.asarray(value)[: len(batch)] for value in score(padded)])
        check()
    return tuple(np.concatenate(own) for own in zip(*parts))


def _texts(workdir: Path, own: Subject) -> dict[str, Any]:
    """What goes with the program, by member."""
    found: dict[str, Any] = {
        archive.PROVENANCE: provenance(own.config, own.backbones.sha256, own.trained_on)
    }
    calibration = calibration_of(workdir, own.name)
    if calibration is not None:
        found[archive.CALIBRATION] = calibration.to_json(photos=False)
    return found
