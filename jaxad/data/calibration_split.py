"""The third split: normal photos that nothing is trained on, to set thresholds by.

Where a manifest names none for a category, some of its training photos are held back. Which ones
is decided by what they hold: the SHA-256 of a photo, read as a number from 0 to 1, is below the
share asked for. Neither names, nor order, nor machine matter, and photos of equal content stay
together. At least `LEAST` are held, those of the smallest hashes, but no more than half.

So adding photos moves no other one, as long as `LEAST` of those there lie below the share: from
about 200 photos on with a share of 0.1. With fewer, a photo that is added moves at most one other:
it takes its place among the `LEAST`, or, below 40 photos, lets the half grow by one. (A subclass
all of whose photos would be held keeps one for training, which may be another one then.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from jaxad.data.manifest import SPLITS, Manifest, Record, name_of, some

SHARE = 0.1
"""Of the training photos that are held back, unless a configuration says otherwise."""
LEAST = 20
"""Photos of different content."""


def hold_calibration(
    manifest: Manifest, share: float, digests: Mapping[tuple[str, str], str]
) -> Manifest:
    """Move training photos of each category to the split "calibration"; see the module's text.

    A category that has photos of that split keeps these, and no others are moved.

    Args:
      manifest: Validated.
      share: From 0 (none are moved) to 0.5.
      digests: Of its photos; those that are not in it stay where they are.
    """
    own = {r.category for r in manifest.records if r.split == "calibration"}
    photos: dict[str, list[Record]] = {}
    for record in manifest.records:
        if record.split == "train" and record.category not in own and _key(record) in digests:
            photos.setdefault(record.category, []).append(record)
    if not share:
        photos = {}
    held = {name: _held(records, share, digests) for name, records in photos.items()}
    return dataclasses.replace(
        manifest,
        records=tuple(
            r._replace(split="calibration")
            if r.split == "train" and digests.get(_key(r)) in held.get(r.category, ())
            else r
            for r in manifest.records
        ),
    )


def _held(
    records: Iterable[Record], share: float, digests: Mapping[tuple[str, str], str]
) -> frozenset[str]:
    """Choose among a category's contents."""
    subclasses: dict[str, set[str]] = {}
    for record in records:
        subclasses.setdefault(record.subclass, set()).add(digests[_key(record)])
    contents = sorted(set().union(*subclasses.values()))
    # A detector that learns kinds of parts apart must see each of them.
    kept = {max(own) for own in subclasses.values()}
    ranked = [digest for digest in contents if digest not in kept]
    below = sum(int(digest[:13], 16) < share * 16**13 for digest in ranked)
    return frozenset(ranked[: min(max(below, LEAST), len(contents) // 2)])


def leaks(manifest: Manifest, digests: Mapping[tuple[str, str], str]) -> Iterator[str]:
    """Say in a line which photos of a category are in two splits by content, for each two splits.

    Args:
      manifest: With all splits.
      digests: Of its photos; those that are not in it are not compared.
    """
    places: dict[tuple[str, str], dict[str, str]] = {}
    for record in manifest.records:
        if digest := digests.get(_key(record)):
            place = places.setdefault((record.category, digest), {})
            place.setdefault(record.split, record.path)
    for i, one in enumerate(SPLITS):
        for other in SPLITS[i + 1 :]:
            both = [f"{p[one]} = {p[other]}" for p in places.values() if one in p and other in p]
            if both:
                yield (
                    f"{name_of(manifest)}: {len(both)} photos of {one} are in {other}, too, by "
                    f"content: {some(both)}: keep each in one of them"
                )


def _key(record: Record) -> tuple[str, str]:
    return record.root, record.path
