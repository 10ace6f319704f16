"""Subclasses of categories: which are trained on, and results of single ones.

Tests on subclasses that were never trained on are the protocol of Adapted-MoE (arXiv 2409.05611).
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxad.data.manifest import Manifest, Record, name_of, some
from jaxad.errors import InputError


def subset_name(record: Record) -> str:
    """Name a subclass of a category, as results of single subclasses are: `tile-exp5`.

    A hyphen, since names of results may become file names, anchors and words of a shell: a dot
    would be taken for a file's ending (`Path.with_suffix`), a slash for a folder.
    """
    return f"{record.category}-{record.subclass}"


def of_subclasses(
    manifest: Manifest, *, train: Sequence[str] = (), test: Sequence[str] = ()
) -> Manifest:
    """Keep the training images of some subclasses and the test images of some, maybe others.

    Args:
      manifest: Of which every category has some of the wanted ones.
      train: Subclasses wanted of the training and calibration images, all if empty.
      test: … of the test images.

    Raises:
      InputError: no such subclass in that split, a category left without images of a split that it
        had, or names that make no `subset_name`.
    """
    where = name_of(manifest)
    records = manifest.records
    aside = manifest.aside
    for split, wanted in (("train", train), ("test", test)):
        if not wanted:
            continue
        key = f"data.{split}_subclasses"
        had = [r for r in records if r.split == split]
        known = sorted({r.subclass for r in had if r.subclass})
        absent = [name for name in wanted if name not in known]
        if absent:
            raise InputError(
                f"{where}: {key} names {some(absent)}, of which there are no {split} images: "
                f"there are {', '.join(known) or 'no subclasses'}"
            )
        kept = [r for r in had if r.subclass in wanted]
        emptied = sorted({r.category for r in had} - {r.category for r in kept})
        if emptied:
            raise InputError(
                f"{where}: {key} leaves category {some(emptied)} no {split} images: name a "
                "subclass of it too, or leave it out by data.categories"
            )
        # What is learnt is what thresholds are set by.
        splits = ("train", "calibration") if split == "train" else (split,)
        aside += tuple(r for r in records if r.split in splits and r.subclass not in wanted)
        records = tuple(r for r in records if r.split not in splits or r.subclass in wanted)
    if test:
        names: dict[str, tuple[str, str]] = {}
        for r in (r for r in records if r.split == "test"):
            first = names.setdefault(subset_name(r), (r.category, r.subclass))
            if first != (r.category, r.subclass) or set(r.subclass) & set("/\\\0"):
                raise InputError(
                    f"{where}: subclass {r.subclass!r} of category {r.category!r} can not name "
                    "results of its own: rename it"
                )
    return Manifest(manifest.root, records, aside=aside)


def by_subclass(
    category: str, records: tuple[Record, ...], subclasses: Sequence[str]
) -> dict[str, tuple[Record, ...]]:
    """Divide a category's test images by the subclasses named, in that order; none: all as one."""
    if not subclasses:
        return {category: records}
    sets: dict[str, tuple[Record, ...]] = {}
    for subclass in subclasses:
        found = tuple(r for r in records if r.subclass == subclass)
        if found:
            sets[subset_name(found[0])] = found
    return sets
