"""Reading and judging the data set that a configuration names."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxad.conformal import photos_needed
from jaxad.core import InputError
from jaxad.data.calibration_split import hold_calibration, leaks
from jaxad.data.check import require_readable
from jaxad.data.digests import Digests, photo_digests
from jaxad.data.fingerprint import changes, fingerprint
from jaxad.data.jobs import Job, jobs, name_list
from jaxad.data.layouts import load_dataset
from jaxad.data.layouts.folder import category_of
from jaxad.data.left_out import left_out
from jaxad.data.manifest import Manifest, shared_images
from jaxad.data.reading import Reading
from jaxad.data.subclasses import of_subclasses
from jaxad.files import confined, read_json, write_json
from jaxad.recipes.recipe import Backbones

DATA = "data.json"
"""In a work directory: the data that it was trained on."""
NAMED = 5
"""So many categories are told apart where photos are counted."""


class TrainedOn(NamedTuple):
    """What is kept of the data that detectors were trained on."""

    n_train: dict[str, int]
    """Training photos by category."""
    fingerprint: dict[str, Any]
    n_calibration: dict[str, int]
    """Calibration photos by category."""


def layout_options(data: Any) -> dict[str, dict[str, Any]]:
    """Options of the layouts by their names, from the section `data` of a configuration."""
    options = {name: data[name].to_dict() for name in ("folder", "texture_ad")}
    return {**options, "join": {"parts": data.join, **options}}


def read_dataset(config: Any) -> Manifest:
    """Load and judge the data set that the configuration names, in its three splits.

    Raises:
        InputError: Whatever keeps it from being used.
    """
    return read_photos(config)[0]


def read_photos(config: Any) -> tuple[Manifest, Digests]:
    """Do as `read_dataset`; also return what every photo holds.

    All headers are read, then every photo is hashed.
    """
    data = config.data
    manifest = load_dataset(
        data.layout,
        data.root,
        categories=name_list(data.categories),
        **layout_options(data).get(data.layout, {}),
    )
    manifest = of_subclasses(
        manifest, train=name_list(data.train_subclasses), test=name_list(data.test_subclasses)
    )
    if data.one_for_all:
        for line in shared_images(manifest):
            raise InputError(line)
    require_readable(manifest)
    digests = photo_digests(manifest)
    return hold_calibration(manifest, data.calibration, digests), digests


def say_left_out(manifest: Manifest, layout: str) -> None:
    """Say which files below the data set's folders are used, and which are not and why."""
    for line in left_out(manifest, layout=layout):
        print(line, file=sys.stderr)


def named(config: Any) -> Any:
    """Give the parts of layout `folder` their folder's name, by which a run knows them for ever."""
    data = config.data
    if data.layout != "folder" or data.folder.category or not data.root:
        return config
    config = config.copy_and_resolve_references()
    config.data.folder.category = category_of(data.root)
    return config


def say_too_few(manifest: Manifest, rates: Any) -> None:
    """Say before training where calibration photos are too few for the rates that are asked for."""
    needed = photos_needed(rates.false_alarm, confidence=rates.confidence or None)
    for name, found in count(manifest, "calibration").items():
        if found < needed:
            print(
                f"{name}: {found} photos to calibrate are too few for a false-alarm rate of "
                f"{rates.false_alarm:g}, which takes {needed}: there will be no threshold before "
                "jaxad calibrate --add has had more, or another --false-alarm",
                file=sys.stderr,
            )


def say_splits(manifest: Manifest, digests: Digests) -> None:
    """Say how many photos each split has, and which photos are in two of them by content."""
    every = manifest.categories
    told = [(name, manifest.select(name)) for name in every[:NAMED]]
    if len(every) > NAMED:
        more = tuple(r for r in manifest.records if r.category in every[NAMED:])
        told.append((f"{len(every) - NAMED} more categories", Manifest(manifest.root, more)))
    counts = (
        f"{name}: {len(part.select(split='train'))} photos to train, "
        f"{len(part.select(split='calibration'))} to calibrate, "
        f"{len(part.select(split='test'))} to test"
        for name, part in told
    )
    print("; ".join(counts), file=sys.stderr)
    for line in leaks(manifest, digests):
        print(line, file=sys.stderr)


def trained_on(manifest: Manifest, digests: Digests) -> TrainedOn:
    """What to keep of the data that is trained on now."""
    n_train, n_calibration = (count(manifest, split) for split in ("train", "calibration"))
    return TrainedOn(n_train, fingerprint(manifest, digests), n_calibration)


def count(manifest: Manifest, split: str) -> dict[str, int]:
    """Photos of a split by category."""
    return dict(Counter(record.category for record in manifest.select(split=split).records))


def save_trained_on(path: Path, data: TrainedOn) -> None:
    """Write `data.json`."""
    write_json(path, data._asdict())


def read_trained_on(workdir: Path) -> TrainedOn:
    """Read `data.json` of a work directory.

    Raises:
        InputError: It is missing or damaged.
    """
    path, mend = confined(workdir, DATA), "bring back an undamaged copy, or train again"
    found = read_json(path, "the record of the data", mend)
    found = found if isinstance(found, dict) else {}
    # Before there were calibration photos, there was no count of them.
    counts: list[Any] = [found.get("n_train"), found.get("n_calibration", {})]
    for each in counts:
        if not isinstance(each, dict) or not all(type(n) is int for n in each.values()):
            raise InputError(f"{path} is damaged: {mend}")
    return TrainedOn(counts[0], found.get("fingerprint", {}), counts[1])


def say_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], categories: Sequence[str] = ()
) -> None:
    """Say how the data differs from what detectors were trained on.

    Args:
        before: The fingerprint of then.
        now: That of the data as it is now.
        categories: Those that are wanted, all if empty.

    Raises:
        InputError: The fingerprint is damaged.
    """
    for line in changes(before, now, categories=categories):
        print(f"since training: {line}", file=sys.stderr)


def jobs_of(manifest: Manifest, config: Any) -> list[Job]:
    """Split the data set into detectors as the configuration wishes."""
    return jobs(
        manifest,
        one_for_all=config.data.one_for_all,
        test_subclasses=name_list(config.data.test_subclasses),
    )


def reading_of(config: Any, backbones: Backbones) -> Reading:
    """How photos are read: by the filter that is named, or by the one of the weights.

    Raises:
        InputError: The networks' weights were trained with different filters, and none is named.
    """
    data = config.data
    filters = {role: network.preprocess.resize for role, network in backbones.networks.items()}
    resample = data.resize or next(iter(filters.values()))
    if not data.resize and len(set(filters.values())) > 1:
        told = ", ".join(f"{role}: {name}" for role, name in filters.items())
        raise InputError(
            f"data.resize is '', and the weights were trained with different filters ({told}): "
            "name one"
        )
    height, width = data.image_size
    return Reading((height, width), resample, data.workers)


def reads_upright(config: Any) -> bool:
    """Whether photos are turned by their EXIF orientation; VisA's are read as stored."""
    data = config.data
    layouts = {part[0] for part in data.join} if data.layout == "join" else {data.layout}
    return layouts != {"visa"}


def prepared_folder(config: Any) -> Path | None:
    """The folder that `data.prepared` names, if it is one."""
    name = config.data.prepared
    return None if name in ("auto", "off") else Path(name).expanduser()
