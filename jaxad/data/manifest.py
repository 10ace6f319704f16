"""The one canonical form of a dataset: a list of records, in memory and as CSV.

Every layout on disk is read into a `Manifest`; everything after that sees only records. As CSV it
has the header `path,category,subclass,split,label,mask`, UTF-8, one image a row:

- `path`, `mask`: relative to the folder of the manifest, with `/`; `mask` empty if there is none;
- `category`: what one detector is trained for ("bottle"); `subclass`: a kind within it, or empty;
- `split`: "train" or "test";
- `label`: "good" for a normal image, anything else is the name of its defect. "normal" is read as
  "good", and both in any case.

Further columns are ignored.
"""

from __future__ import annotations

import csv
import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from jaxad.errors import InputError

GOOD = "good"
SPLITS = ("train", "test")


class Record(NamedTuple):
    """One image of a dataset; see the module's text for the meaning of the fields."""

    path: str
    category: str
    subclass: str
    split: str
    label: str
    mask: str = ""

    @property
    def is_good(self) -> bool:
        """Whether the image is normal."""
        return self.label == GOOD


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Records and the folder that their paths are relative to."""

    root: Path
    records: tuple[Record, ...]

    def __len__(self) -> int:
        return len(self.records)

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
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the header.
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = next(rows, [])
            missing = [name for name in Record._fields if name not in header]
            if missing:
                raise InputError(
                    f"{path}: the header has no column {', '.join(missing)}: it must name "
                    f"{','.join(Record._fields)} (separated by commas)"
                )
            columns = [header.index(name) for name in Record._fields]
            records = []
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise InputError(
                        f"{path}: line {rows.line_num} has {len(row)} fields where the header has "
                        f"{len(header)}: quote fields that hold commas"
                    )
                record = Record(*(row[c] for c in columns))
                records.append(record._replace(label=canonical_label(record.label)))
    except FileNotFoundError:
        raise InputError(f"{path}: no such manifest") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8: save the manifest as UTF-8 text") from None
    except csv.Error as error:
        raise InputError(f"{path}: line {rows.line_num} is not CSV ({error})") from None
    return Manifest(path.parent if root is None else Path(root), tuple(records))


def write_csv(manifest: Manifest, path: str | os.PathLike[str]) -> None:
    """Write a manifest as CSV, whole or not at all (to a temporary name, then renamed)."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(Record._fields)
            rows.writerows(manifest.records)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


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
    root, records = manifest.root, manifest.records
    if not records:
        yield f"{root}: the dataset has no images: check data.root, data.layout and data.categories"
        return
    for field in ("path", "category", "split", "label"):
        empty = [i for i, r in enumerate(records, 1) if not getattr(r, field)]
        if empty:
            yield f"{root}: {field} is empty in record {some(empty)}: fill it in"
    splits = {r.split for r in records if r.split} - set(SPLITS)
    if splits:
        yield f"{root}: unknown split {some(sorted(splits))}: write train or test"
    # Categories name folders of results, so they may not lead elsewhere either.
    bad = {r.category for r in records if r.category in (".", "..")}
    bad |= {r.category for r in records if set(r.category) & set("/\\\0")}
    if bad:
        yield f"{root}: category {some(sorted(bad))} can not name a folder: rename it"
    labels = {r.label for r in records if r.label != canonical_label(r.label)}
    if labels:
        yield f"{root}: label {some(sorted(labels))} of normal images is written {GOOD!r} here"
    yield from _path_problems(manifest)
    yield from _split_problems(manifest)


def _split_problems(manifest: Manifest) -> Iterator[str]:
    root, records = manifest.root, manifest.records
    defective = [r.path for r in records if r.split == "train" and not r.is_good]
    if defective:
        yield (
            f"{root}: {len(defective)} defective images in train, where all must be normal: "
            f"{some(defective)}: move them to test or label them {GOOD!r}"
        )
    trainable = {r.category for r in records if r.split == "train" and r.is_good}
    untrainable = sorted({r.category for r in records if r.category} - trainable)
    if untrainable:
        yield (
            f"{root}: no normal training images in category {some(untrainable)}: add images of "
            f"split train and label {GOOD!r}, or leave the category out by data.categories"
        )
    seen: dict[PurePosixPath, Record] = {}
    leaked: list[str] = []
    repeated: list[str] = []
    for r in records:
        first = seen.setdefault(PurePosixPath(r.path), r)
        if first is not r:
            (leaked if first.split != r.split else repeated).append(r.path)
    if leaked:
        yield f"{root}: in both train and test: {some(leaked)}: keep each image in one of them"
    if repeated:
        yield f"{root}: listed more than once: {some(repeated)}: list each image once"


def _path_problems(manifest: Manifest) -> Iterator[str]:
    root = manifest.root
    real_root = Path(os.path.realpath(root))
    folders: dict[Path, bool] = {}  # folder -> whether it lies within the root, links followed

    def within(path: Path) -> bool:
        if path.is_symlink():
            return Path(os.path.realpath(path)).is_relative_to(real_root)
        if path.parent not in folders:
            folders[path.parent] = Path(os.path.realpath(path.parent)).is_relative_to(real_root)
        return folders[path.parent]

    outside, linked, missing = [], [], []
    for name in (n for r in manifest.records for n in (r.path, r.mask) if n):
        if _leaves(name):
            outside.append(name)
        elif not is_file(root / name):
            missing.append(name)
        elif not within(root / name):
            linked.append(name)
    if outside:
        yield f"{root}: paths that leave this folder: {some(outside)}: make them relative to it"
    if linked:
        yield f"{root}: links that leave this folder: {some(linked)}: copy the files in"
    if missing:
        yield f"{root}: {len(missing)} files are missing: {some(missing)}: restore or unlist them"


def _leaves(name: str) -> bool:
    """Whether a relative path, read as POSIX or as Windows does, points out of its folder."""
    windows = PureWindowsPath(name)
    return (
        bool(windows.drive or windows.root)
        or name.startswith("/")
        or ".." in windows.parts
        or "\0" in name
    )


def is_file(path: Path) -> bool:
    """Whether a file is there; False also for a name that the file system does not take."""
    try:
        return path.is_file()
    except OSError:
        return False


def some(names: Iterable[object], limit: int = 3) -> str:
    """Name the first few and count the rest: `'a', 'b', 'c' and 17 more`."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(n) for n in names[:limit]) + more
