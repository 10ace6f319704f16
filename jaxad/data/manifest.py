"""The one canonical form of a dataset: a list of records, in memory and as CSV.

Every layout on disk is read into a `Manifest`; everything after that sees only records. As CSV it
has the header `path,category,subclass,split,label,mask`, UTF-8, one image a row:

- `path`, `mask`: relative to the folder of the manifest, with `/`; `mask` empty if there is none,
  or a folder of several masks that count together;
- `category`: what one detector is trained for ("bottle"); `subclass`: a kind within it, or empty;
- `split`: "train", "calibration" (normal images, to set thresholds by) or "test"; where a category
  has none of the second, some of the first are held back: see `jaxad.data.calibration_split`;
- `label`: "good" for a normal image, anything else is the name of its defect. "normal" is read as
  "good", and both in any case.

Further columns are ignored. A layout, but never a file, can say of a record that its paths are
relative to another folder, and that its pixels are read as stored.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from jaxad.data.confine import LINKED, MISSING, OUTSIDE, path_judge
from jaxad.data.table import read_table
from jaxad.errors import InputError
from jaxad.files import write_bytes

GOOD = "good"
SPLITS = ("train", "calibration", "test")


class Record(NamedTuple):
    """One image of a dataset; see the module's text for the meaning of the fields."""

    path: str
    category: str
    subclass: str
    split: str
    label: str
    mask: str = ""
    root: str = ""
    """Folder that `path` and `mask` are relative to; "": the manifest's, as in every CSV file."""
    as_stored: bool = False
    """Whether the EXIF orientation of image and mask is passed over."""
    prepared: str = ""
    """Where image and mask are read instead, decoded and resized; see `jaxad.data.prepared`."""

    @property
    def is_good(self) -> bool:
        """Whether the image is normal."""
        return self.label == GOOD


COLUMNS = Record._fields[:6]
"""What of a record is written to CSV."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Records and the folder that their paths are relative to (unless they name their own)."""

    root: Path
    records: tuple[Record, ...]
    aside: tuple[Record, ...] = dataclasses.field(default=(), compare=False, repr=False)
    """Records that a choice of categories or subclasses left out: not used, nor overlooked."""

    def __len__(self) -> int:
        return len(self.records)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders that paths are relative to: the root, or those of the joined parts."""
        own = {r.root for r in self.records if r.root}
        return tuple(self.root / name for name in sorted(own)) or (self.root,)

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the categories, sorted."""
        return tuple(sorted({r.category for r in self.records}))

    @property
    def subclasses(self) -> tuple[str, ...]:
        """Names of the subclasses, sorted; "" among them where a record has none."""
        return tuple(sorted({r.subclass for r in self.records}))

    def select(self, category: str | None = None, split: str | None = None) -> Manifest:
        """Keep the records of one category and/or one split, in order."""
        return Manifest(
            self.root,
            tuple(
                r
                for r in self.records
                if category in (None, r.category) and split in (None, r.split)
            ),
        )

    def counts(self) -> dict[tuple[str, str, str], int]:
        """Number of images by (category, split, label), sorted by name."""
        return dict(sorted(Counter((r.category, r.split, r.label) for r in self.records).items()))


def canonical_label(label: str) -> str:
    """Return "good" for "good" and "normal" in any case, and any other label as it is."""
    return GOOD if label.casefold() in (GOOD, "normal") else label


def read_csv(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> Manifest:
    """Read a manifest; its paths are relative to `root`, by default the folder of the file.

    Reads the form only: `validate` judges the content.

    Raises:
      InputError: no such file, not UTF-8, columns missing, or a row of another length.
    """
    path = Path(path)
    records = tuple(
        Record(name, category, subclass, split, canonical_label(label), mask)
        for _, (name, category, subclass, split, label, mask) in read_table(path, COLUMNS)
    )
    return Manifest(path.parent if root is None else Path(root), records)


def write_csv(manifest: Manifest, path: str | os.PathLike[str]) -> None:
    """Write a manifest as CSV, whole or not at all.

    Raises:
      InputError: records with a folder of their own or read as stored, which CSV can not say; a
        name that is not UTF-8; a file that can not be written.
    """
    path = Path(path)
    if any(record.root or record.as_stored for record in manifest.records):
        raise InputError(f"{path}: joined data and layout visa can not be written as CSV")
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(COLUMNS)
    rows.writerows(record[: len(COLUMNS)] for record in manifest.records)
    try:
        data = text.getvalue().encode()
    except UnicodeEncodeError as error:
        name = error.object[max(0, error.start - 20) : error.end + 20]
        raise InputError(f"{path}: the name in {name!r} is not UTF-8: rename the file") from None
    write_bytes(path, data)


def validate(manifest: Manifest) -> Manifest:
    """Return the manifest if it can be trained and evaluated on.

    Raises:
      InputError: with the first of `problems`, and how many more there are.
    """
    found = list(problems(manifest))
    if found:
        more = f" (and {len(found) - 1} more: see jaxad data check)" if len(found) > 1 else ""
        raise InputError(found[0] + more)
    return manifest


def problems(manifest: Manifest) -> Iterator[str]:
    """Yield what makes a manifest unusable, one line for each kind of problem.

    Bounded: a line names the first few records it holds for and counts the rest. Missing masks of
    defective images are no problem: image metrics need none.
    """
    root, records = name_of(manifest), manifest.records
    if not records:
        yield f"{root}: the dataset has no images: check data.root, data.layout and data.categories"
        return
    for field in ("path", "category", "split", "label"):
        empty = [i for i, r in enumerate(records, 1) if not getattr(r, field)]
        if empty:
            yield f"{root}: {field} is empty in record {some(empty)}: fill it in"
    splits = {r.split for r in records if r.split} - set(SPLITS)
    if splits:
        yield f"{root}: unknown split {some(sorted(splits))}: write train, calibration or test"
    # Categories name folders of results, so they may not lead elsewhere either.
    bad = {r.category for r in records if r.category in (".", "..")}
    bad |= {c for c in manifest.categories if set(c) & set("/\\\0") or not c.isprintable()}
    if bad:
        yield f"{root}: category {some(sorted(bad))} can not name a folder: rename it"
    labels = {r.label for r in records if r.label != canonical_label(r.label)}
    if labels:
        yield f"{root}: label {some(sorted(labels))} of normal images is written {GOOD!r} here"
    yield from _path_problems(manifest)
    yield from _split_problems(manifest)


def _split_problems(manifest: Manifest) -> Iterator[str]:
    root, records = name_of(manifest), manifest.records
    for split in ("train", "calibration"):
        defective = [r.path for r in records if r.split == split and not r.is_good]
        if defective:
            yield (
                f"{root}: {len(defective)} defective images in {split}, where all must be normal: "
                f"{some(defective)}: move them to test or label them {GOOD!r}"
            )
    trainable = {r.category for r in records if r.split == "train" and r.is_good}
    untrainable = sorted({r.category for r in records if r.category} - trainable)
    if untrainable:
        yield (
            f"{root}: no normal training images in category {some(untrainable)}: add images of "
            f"split train and label {GOOD!r}, or leave the category out by data.categories"
        )
    leaked: dict[str, list[str]] = {}
    repeated: list[str] = []
    for same in _by_image(manifest).values():
        splits = sorted({r.split for r in same}, key=lambda split: (split != "train", split))
        if len(splits) > 1:
            path = next(r.path for r in same if r.split != same[0].split)
            leaked.setdefault(" and ".join(splits), []).append(path)
        elif len({r.category for r in same}) < len(same):
            repeated += [same[0].path]
    for both, paths in leaked.items():
        yield f"{root}: in both {both}: {some(paths)}: keep each image in one of them"
    if repeated:
        yield f"{root}: listed more than once: {some(repeated)}: list each image once"


def shared_images(manifest: Manifest) -> Iterator[str]:
    """Yield what speaks against one detector for all categories: images that several of them have.

    Detectors of their own are another matter: CIFAR-10's settings judge the same images each by
    other classes.
    """
    shared = [same for same in _by_image(manifest).values() if len(same) > 1]
    if shared:
        names = sorted({r.category for same in shared for r in same})
        yield (
            f"{name_of(manifest)}: {len(shared)} images are in more than one of the categories "
            f"{some(names, 5)}: for data.one_for_all name those that go together by data.categories"
        )


def _by_image(manifest: Manifest) -> dict[str, list[Record]]:
    """Records by the image they name; the folders of joined parts may lie in one another."""
    folders = {own: os.path.realpath(manifest.root / own) for own in _own_roots(manifest)}
    found: dict[str, list[Record]] = {}
    for record in manifest.records:
        name = posixpath.normpath(f"{folders[record.root]}/{record.path}")
        found.setdefault(name, []).append(record)
    return found


def _path_problems(manifest: Manifest) -> Iterator[str]:
    for own in _own_roots(manifest):
        root = manifest.root / own
        here = [r for r in manifest.records if r.root == own]
        names = dict.fromkeys((n, m) for r in here for n, m in ((r.path, False), (r.mask, True)))
        judge = path_judge(root)
        bad: dict[str, list[str]] = {}
        for name, mask in names:
            if name:
                bad.setdefault(judge(name, mask=mask), []).append(name)
        for wrong, line in (
            (OUTSIDE, "paths that leave this folder: {}: make them relative to it"),
            (LINKED, "links that leave this folder: {}: copy the files in"),
            (MISSING, "{n} files are missing: {}: restore or unlist them"),
        ):
            if wrong in bad:
                yield f"{root}: " + line.format(some(bad[wrong]), n=len(bad[wrong]))


def name_of(manifest: Manifest) -> str:
    """Name a dataset in messages: its root, or `data.join`."""
    joined = any(r.root for r in manifest.records)
    return "data.join" if joined else str(manifest.root)


def _own_roots(manifest: Manifest) -> list[str]:
    return sorted({r.root for r in manifest.records})


def some(names: Iterable[object], limit: int = 3) -> str:
    """Name the first few and count the rest: `'a', 'b', 'c' and 17 more`."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(n) for n in names[:limit]) + more
