"""Which files below a dataset's folder are not used, and why: nothing is passed over in silence."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from jaxad.data.decode import image_path, mask_path, mask_paths
from jaxad.data.images import SUFFIXES
from jaxad.data.manifest import Manifest, Record, some
from jaxad.data.members import file_finder

MAX_FILES = 500_000
"""So many files and folders are looked at."""

_OTHER_FORMATS = re.compile(
    r"\.(webp|gif|hei[cf]|avif|jp2|j2k|jxl|dng|cr[23]|nef|arw|raw|p[pgbn]m|tga|exr|hdr|dcm|svg|ico)"
)
"""Endings of images that are not read."""
_TEXTS = re.compile(r"\.(txt|csv|jsonl?|xml|md|ya?ml|html|py|pdf|log|ini)")
"""Endings of files that are not looked into."""
_FIRST_BYTES = {
    b"\x89PNG\r\n\x1a\n": "misnamed",
    b"\xff\xd8\xff": "misnamed",
    b"RIFF": "format",
    b"GIF8": "format",
}
_MASK_FOLDER = re.compile(r"ground_?truth|gt|masks?", re.IGNORECASE)
_MASK_NAME = re.compile(rf"[-_. ]*({_MASK_FOLDER.pattern})$", re.IGNORECASE)

_WHERE = {
    "mvtec_ad": "<category>/ground_truth/<defect>/, named like its photo, with or without _mask",
    "texture_ad": "the place that data.texture_ad.masks names",
    "folder": "the folder of data.folder.masks, named like its photo, with or without _mask",
}
"""Layouts to where a mask is found."""
_LISTED = ("manifest", "visa", "elpv")
"""Layouts with a table of the photos."""
_REASONS = {
    "mask": ("masks fit no photo", "a mask is found in {where}"),
    "second": ("are further masks of photos that have one", "put them into a folder of its name"),
    "deeper": ("photos lie deeper than the photos that are used", "move them up"),
    "elsewhere": ("photos lie where layout {layout} looks for none", "move them, or remove them"),
    "unlisted": ("images are not listed in the dataset's table", "list them, or remove them"),
    "format": ("are images of a format that is not read", "save them as PNG"),
    "misnamed": ("are images by content but not by name", "let the name end in .png or .jpg"),
    "linked": ("are links to folders, which are not followed", "put the folder there itself"),
    "nowhere": ("are links to nothing", "mend or remove them"),
    "closed": ("are folders that can not be opened", "permit to read them"),
    "hidden": ("are hidden", ""),
    "other": ("are no images, but tables, texts and the like", ""),
}
"""Why a file is not used, and the mend: in the order in which they are told."""


class _Used(NamedTuple):
    """Absolute paths."""

    files: frozenset[str]
    folders: frozenset[str]
    """All that lead to the files."""
    whole: frozenset[str]
    """Whose files are used all of them, though no record names them: splits of tfds."""
    photo_folders: frozenset[str]
    """That hold photos directly."""
    masked: frozenset[tuple[str, str]]
    """(folder, name without ending and _mask) of masks that are used."""


def left_out(manifest: Manifest, *, layout: str = "") -> list[str]:
    """Say in lines of text how many files below a dataset's folders are used, and why others not.

    Every file below these folders is counted, and every one that is not used is named or counted
    under its reason; files of records that a choice of categories or subclasses left `aside` are
    counted apart. Then follow what is worth a look among the files that are used: photos of one
    name, and defective photos without a mask where others have one.

    Args:
      manifest: As `layouts.load_dataset` and `subclasses.of_subclasses` return it: before parts of
        it are selected.
      layout: Its name, for the mends.
    """
    chosen, aside = (_used(manifest, records) for records in (manifest.records, manifest.aside))
    unused: dict[str, list[str]] = {reason: [] for reason in _REASONS}
    counts = Counter[str]()
    seen: set[str] = set()
    for root in _tops(manifest):
        for path, reason in _walk(root, chosen, aside, layout, seen):
            counts[reason] += 1
            if reason in unused:
                unused[reason].append(os.path.relpath(path, root))
    number = sum(len(names) for names in unused.values())
    masks = sum(len(mask_paths(manifest.root, r)) for r in manifest.records)
    photos = len({image_path(manifest.root, r) for r in manifest.records})
    below = ", ".join(str(folder) for folder in manifest.folders)
    also = f", {counts['aside']} belong to what is not asked for" if counts["aside"] else ""
    used = f"{photos} photos and {masks} masks are used{also}"
    lines = [f"{used}; {number} files below {below} are left out"]
    if counts["unseen"]:
        lines.append(f"more than {MAX_FILES} files are there: the rest was not looked at")
    where = _WHERE.get(layout, "its place, named like its photo")
    for reason, names in unused.items():
        if names:
            what, mend = (text.format(layout=layout, where=where) for text in _REASONS[reason])
            lines.append(f"left out: {len(names)} {what}: {some(names)}" + f": {mend}" * bool(mend))
    return lines + list(_worth_a_look(manifest, unused["mask"]))


def _used(manifest: Manifest, records: Iterable[Record]) -> _Used:
    photos: set[Path] = set()
    masks: list[Path] = []
    masked: set[tuple[str, str]] = set()
    containers: set[Path] = set()
    file_of = file_finder()
    for r in records:
        image = image_path(manifest.root, r)
        photo = file_of(image)
        photos.add(photo)
        if photo != image:
            containers.add(photo)
        masks += mask_paths(manifest.root, r)
        if r.mask:
            mask = mask_path(manifest.root, r)
            masked.add((_absolute(mask.parent), _MASK_NAME.sub("", mask.stem)))
    splits = [c for c in containers if not c.exists()]
    folders: set[str] = set()
    for folder in {path.parent for path in (*photos, *masks)}:
        absolute = _absolute(folder)
        folders |= {absolute, *(str(parent) for parent in Path(absolute).parents)}
    return _Used(
        files=frozenset(_absolute(path) for path in (*photos, *masks)),
        folders=frozenset(folders),
        whole=frozenset(_absolute(split.parent) for split in splits),
        photo_folders=frozenset(_absolute(folder) for folder in {p.parent for p in photos}),
        masked=frozenset(masked),
    )


def _absolute(path: Path) -> str:
    return os.path.normpath(path.absolute())


def _tops(manifest: Manifest) -> list[str]:
    """The folders that do not lie in another of them."""
    roots = sorted({_absolute(folder) for folder in manifest.folders})
    return [r for r in roots if not any(r != o and Path(r).is_relative_to(o) for o in roots)]


def _walk(
    root: str, chosen: _Used, aside: _Used, layout: str, seen: set[str]
) -> Iterator[tuple[str, str]]:
    """Yield every file below a folder, with "used", "aside" or the reason why it is neither."""
    left = [root]
    seen.add(os.path.realpath(root))
    looked_at = 0
    while left:
        folder = left.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            yield folder, "closed"
            continue
        inner = []
        for entry in entries:
            looked_at += 1
            if looked_at > MAX_FILES:
                yield folder, "unseen"
                return
            path = entry.path
            if path in chosen.files:
                yield path, "used"
            elif path in aside.files:
                yield path, "aside"
            elif entry.name.startswith("."):
                yield path, "hidden"
            elif entry.is_dir():
                leads = path in chosen.folders or path in aside.folders
                if entry.is_symlink() and not leads:
                    yield path, "linked"
                elif not entry.is_symlink() or os.path.realpath(path) not in seen:
                    if entry.is_symlink():
                        seen.add(os.path.realpath(path))
                    inner.append(path)
            elif folder in chosen.whole or folder in aside.whole:
                yield path, "used"
            elif not entry.is_file():
                yield path, "nowhere"
            else:
                yield path, _reason(root, Path(path), chosen, layout)
        left += reversed(inner)


def _reason(root: str, path: Path, chosen: _Used, layout: str) -> str:
    """Tell why a file is not used that is neither hidden nor a dead link."""
    suffix = path.suffix.lower()
    if _OTHER_FORMATS.fullmatch(suffix):
        return "format"
    if suffix not in SUFFIXES:
        return "other" if _TEXTS.fullmatch(suffix) else _by_content(path)
    folder = str(path.parent)
    if (folder, _MASK_NAME.sub("", path.stem)) in chosen.masked:
        return "second"
    inner = path.relative_to(root).parts[:-1]
    if _MASK_NAME.search(path.stem) or any(map(_MASK_FOLDER.fullmatch, inner)):
        return "mask"
    if any(str(parent) in chosen.photo_folders for parent in path.parent.parents):
        return "deeper"
    return "unlisted" if layout in _LISTED else "elsewhere"


def _by_content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return "other"
    if start.startswith(b"RIFF") and start[8:12] != b"WEBP":  # a sound
        return "other"
    return next((r for magic, r in _FIRST_BYTES.items() if start.startswith(magic)), "other")


def _worth_a_look(manifest: Manifest, stray_masks: list[str]) -> Iterator[str]:
    names: dict[tuple[str, str], set[str]] = {}
    for r in manifest.records:
        path = PurePosixPath(r.path)
        if path.suffix:
            names.setdefault((r.root, str(path.with_suffix(""))), set()).add(r.path)
    twice = sorted(sorted(same) for same in names.values() if len(same) > 1)
    if twice:
        yield (
            f"{len(twice)} names stand for several photos, which differ in their ending alone: "
            f"{some(' and '.join(same) for same in twice)}: keep one of each if they are the same"
        )
    if not stray_masks and not any(r.mask for r in manifest.records):
        return  # a dataset without masks, which is fine
    for category in manifest.categories:
        defective = [r for r in manifest.select(category).records if not r.is_good]
        bare = [r.path for r in defective if not r.mask]
        if bare:
            yield (
                f"{len(bare)} of {len(defective)} defective photos of {category!r} have no mask: "
                f"{some(bare)}"
            )
