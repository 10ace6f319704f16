"""Layout `texture_ad`: categories of several subclasses each, found by patterns.

Texture-AD (arXiv 2409.06367) has cloths, wafers and metals of several kinds each, some of which are
kept out of training. How its archives are laid out inside is not published, so patterns say it; by
default the tree of MVTec AD is looked for in every subclass:

- `<root>/<category>/<subclass>/train/good/NNN.png`
- `<root>/<category>/<subclass>/test/<good or defect>/NNN.png`
- `<root>/<category>/<subclass>/ground_truth/<defect>/NNN_mask.png`

A pattern is a path relative to the root, without the file's ending, with the fields `{category}`,
`{subclass}`, `{label}` and `{name}`. A field stands for a part of one file or folder name, or all
of it; where names can be split in several ways, fields on the left take as little as they can. A
field that comes twice is the same text both times.
"""

from __future__ import annotations

import os
import re
from itertools import pairwise
from pathlib import Path
from string import Formatter

from jaxad.data.confine import leaves
from jaxad.data.listing import folders, images_in, mask_files, masks_in
from jaxad.data.manifest import GOOD, Manifest, Record, canonical_label, some
from jaxad.errors import InputError

TRAIN = "{category}/{subclass}/train/{label}/{name}"
TEST = "{category}/{subclass}/test/{label}/{name}"
MASKS = "{category}/{subclass}/ground_truth/{label}/{name}_mask"
FIELDS = ("category", "subclass", "label", "name")
_NEEDED = {
    "train": ("subclass", "name"),
    "test": ("subclass", "label", "name"),
    "masks": ("name",),
}


def scan(
    root: str | os.PathLike[str], *, train: str = TRAIN, test: str = TEST, masks: str = MASKS
) -> Manifest:
    """List the images that fit the patterns, sorted by category, subclass, split and path.

    Args:
      root: The folder. Without `{category}` in a pattern its name is the category.
      train: Pattern of the training images, which are good where it has no `{label}`.
      test: Pattern of the test images; "": there are none.
      masks: Pattern of the mask of a test image, whose fields are put in; where there is no such
        file, one of the image's own name in the same folder will do; so will a folder of several
        masks, which count together. "": there are none. A file that is the mask of an image is
        no image itself.

    Raises:
      InputError: a pattern of another form, one that nothing fits, or a mask that fits two images.
    """
    root = Path(root)
    patterns = {"train": train, "test": test, "masks": masks}
    for option, pattern in patterns.items():
        if pattern or option == "train":
            _check(option, pattern)
    found = {
        split: _find(root, split, patterns[split]) for split in ("train", "test") if patterns[split]
    }
    pairs = _pair(root, masks, found.get("test", [])) if masks else {}
    are_masks = {file for mask in pairs.values() for file in mask_files(mask)}
    records = [
        Record(
            path=image.relative_to(root).as_posix(),
            category=fields["category"],
            subclass=fields["subclass"],
            split=split,
            label=canonical_label(fields["label"]),
            mask=pairs[image].relative_to(root).as_posix()
            if image in pairs and not _is_good(fields)
            else "",
        )
        for split, images in found.items()
        for image, fields in images
        if image not in are_masks
    ]
    records.sort(key=lambda r: (r.category, r.subclass, r.split == "test", r.path))
    return Manifest(root, tuple(records))


def _check(option: str, pattern: str) -> None:
    named = _named(option, pattern)
    if leaves(pattern):
        raise InputError(f"{named} leads out of data.root: write it relative to that, without '..'")
    try:  # part by part: a field that holds a slash is no field
        parts = [list(Formatter().parse(part)) for part in pattern.split("/")]
    except ValueError as error:
        raise InputError(f"{named} is no pattern ({error}): write fields as {{name}}") from error
    pieces = [piece for part in parts for piece in part]
    fields = [field for _, field, _, _ in pieces if field is not None]
    unknown = [
        f for _, f, spec, how in pieces if f is not None and (f not in FIELDS or spec or how)
    ]
    if unknown:
        raise InputError(f"{named} has the field {some(unknown)}: there are {_braced(FIELDS)}")
    missing = [field for field in _NEEDED[option] if field not in fields]
    if missing:
        raise InputError(f"{named} has no {_braced(missing)}: say where in the path it stands")
    follow = (pair for part in parts for pair in pairwise(part))
    if any(before[1] is not None and not literal for before, (literal, *_) in follow):
        raise InputError(f"{named} has two fields side by side: put what parts them in between")


def _find(root: Path, option: str, pattern: str) -> list[tuple[Path, dict[str, str]]]:
    """List the images that fit a pattern with all their fields, going down folder by folder."""
    parts = pattern.split("/")
    places: list[tuple[Path, dict[str, str]]] = [(root, {})]
    for depth, part in enumerate(parts, 1):
        last = depth == len(parts)
        fitting = []
        for place, known in places:
            expression = _expression(part, known)
            for path in images_in(place) if last else folders(place):
                match = expression.fullmatch(path.stem if last else path.name)
                if match:
                    fitting.append((path, known | match.groupdict()))
        if not fitting:
            there = [p.name for p in (*folders(places[0][0]), *images_in(places[0][0]))]
            without = ", or go without by data.texture_ad.test=''" if option == "test" else ""
            raise InputError(
                f"{places[0][0]}: {'no image' if last else 'nothing'} fits {part!r} of "
                f"{_named(option, pattern)} (there is {some(there, 5) or 'nothing'}): mend the "
                f"pattern or data.root{without}"
            )
        places = fitting
    category = root.resolve().name
    return [(path, {"category": category, "label": GOOD, **found}) for path, found in places]


def _expression(part: str, known: dict[str, str]) -> re.Pattern[str]:
    text, own = "", set()
    for literal, field, _, _ in Formatter().parse(part):
        text += re.escape(literal)
        if field is None:
            continue
        if field in known:
            text += re.escape(known[field])
        else:
            text += f"(?P={field})" if field in own else f"(?P<{field}>[^/]+?)"
            own.add(field)
    return re.compile(text)


def _pair(root: Path, masks: str, images: list[tuple[Path, dict[str, str]]]) -> dict[Path, Path]:
    """Map test images, good ones as well, to their masks."""
    files: dict[Path, dict[str, Path]] = {}  # folder -> its masks by name
    pairs: dict[Path, Path] = {}
    owners: dict[Path, Path] = {}
    for image, fields in images:
        place = root / masks.format(**fields)
        if place.parent not in files:
            files[place.parent] = masks_in(place.parent)
        for stem in (place.name, fields["name"]):
            mask = files[place.parent].get(stem)
            if mask is None or mask.with_suffix("") == image.with_suffix(""):
                continue
            pairs[image] = mask
            if not _is_good(fields) and owners.setdefault(mask, image) != image:
                raise InputError(
                    f"{mask}: fits {owners[mask].relative_to(root).as_posix()!r} and "
                    f"{image.relative_to(root).as_posix()!r}: name more fields in "
                    f"{_named('masks', masks)}"
                )
            break
    defective = [fields for _, fields in images if not _is_good(fields)]
    if defective and not owners and masks != MASKS:
        raise InputError(
            f"{root / masks.format(**defective[0])}: no such mask, nor any other that fits "
            f"{_named('masks', masks)}: mend the pattern, or go without by "
            "data.texture_ad.masks=''"
        )
    return pairs


def _is_good(fields: dict[str, str]) -> bool:
    return canonical_label(fields["label"]) == GOOD


def _named(option: str, pattern: str) -> str:
    return f"data.texture_ad.{option}={pattern!r}"


def _braced(fields: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"{{{field}}}" for field in fields)
