"""Layout `folder`: the user's own photos, with as little order as can be asked for.

- `<root>/good/...`: normal photos, at any depth;
- `<root>/bad/[<defect>/]...`: photos with defects, optional; a subfolder names the defect;
- `<root>/masks/[<defect>/]...`: masks of the same stem, or stem + "_mask", or folders of several
  masks of one photo, which count together; optional.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from jaxad.data.hold_out import held_out_fifth
from jaxad.data.images import SUFFIXES
from jaxad.data.listing import images_below, images_in
from jaxad.data.manifest import GOOD, Manifest, Record, canonical_label, some
from jaxad.errors import InputError

_ABNORMAL, _MASKS = "bad", "masks"


def category_of(root: str | os.PathLike[str]) -> str:
    """What the parts of a folder are called where nobody names them: as the folder."""
    return Path(root).expanduser().resolve().name


def scan(
    root: str | os.PathLike[str],
    *,
    normal: str = "good",
    normal_test: str = "",
    abnormal: str = _ABNORMAL,
    masks: str = _MASKS,
    category: str = "",
) -> Manifest:
    """List a folder of photos as one category; every option is a folder relative to `root`.

    Args:
      root: The folder.
      normal: Normal photos.
      normal_test: Normal photos for the test; "": a fifth of `normal` (`held_out_fifth` of their
        paths) is held out of training instead.
      abnormal: Photos with defects. Absent is fine under the default name: normal photos alone
        make a detector and its thresholds.
      masks: Their masks, under the same subfolder, or directly there where the stem tells.
      category: The category's name; "": the name of `root`.

    Raises:
      InputError: a folder that was named is absent or lies outside the root, no normal photos, or
        a mask that fits two photos.
    """
    root = Path(root)
    for name in (normal, normal_test, abnormal, masks):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"{root}: folder {name!r} must be within data.root, relative to it")
    others = [root / name for name in (normal_test, abnormal, masks) if name]
    good = images_below(root / normal, apart_from=others)
    if not good:
        raise InputError(_no_normal(root, normal))
    name = category or category_of(root)

    def record(image: Path, split: str, label: str, mask: Path | None = None) -> Record:
        where = mask.relative_to(root).as_posix() if mask else ""
        return Record(image.relative_to(root).as_posix(), name, "", split, label, where)

    if normal_test:
        held_out: frozenset[str] = frozenset()
        good_test = images_below(root / normal_test, apart_from=others[1:])
        if not good_test:
            raise InputError(
                f"{root / normal_test}: no images: set data.folder.normal_test='' to hold out some"
            )
    else:
        held_out = held_out_fifth(p.relative_to(root).as_posix() for p in good)
        good_test = []
    records = [
        record(p, "test" if p.relative_to(root).as_posix() in held_out else "train", GOOD)
        for p in good
    ]
    records += [record(p, "test", GOOD) for p in good_test]

    bad = (
        images_below(root / abnormal, apart_from=[root / masks] if masks else [])
        if abnormal
        else []
    )
    if abnormal not in ("", _ABNORMAL) and not bad:
        raise InputError(f"{root / abnormal}: no images: set data.folder.abnormal='' to go without")
    if masks not in ("", _MASKS) and not (root / masks).is_dir():
        raise InputError(f"{root / masks}: no such folder: set data.folder.masks='' to go without")
    paired = _pair_masks(bad, root / abnormal, root / masks) if bad and masks else {}
    for image in bad:
        parts = image.relative_to(root / abnormal).parts
        label = parts[0] if len(parts) > 1 else (root / abnormal).name
        if canonical_label(label) == GOOD:
            raise InputError(f"{image.parent}: {label!r} can not name a defect: rename the folder")
        records.append(record(image, "test", label, paired.get(image)))
    return Manifest(root, tuple(records))


def _pair_masks(images: list[Path], abnormal: Path, masks: Path) -> dict[Path, Path]:
    found: dict[Path, Path] = {}
    for path in images_below(masks):
        found.setdefault(path.relative_to(masks).with_suffix(""), path)
    times = Counter(p.stem for p in images)
    here = Counter(p.with_suffix("") for p in images)
    pairs: dict[Path, Path] = {}
    for image in images:
        same_place = image.relative_to(abnormal).with_suffix("")
        for place in (same_place, Path(image.stem)):
            mask = found.get(place.with_name(f"{place.name}_mask")) or found.get(place)
            # A folder of masks, unless it is that of a defect.
            several = masks / place
            if mask is None and not (abnormal / place).is_dir() and images_in(several):
                mask = several
            if mask is None:
                continue
            if place != same_place and times[image.stem] > 1:
                raise InputError(
                    f"{mask}: fits {times[image.stem]} images named {image.stem}: put masks into "
                    f"the same subfolders as in {abnormal.name}"
                )
            if here[image.with_suffix("")] > 1:
                raise InputError(
                    f"{mask}: fits {here[image.with_suffix('')]} images named {image.stem} in "
                    f"{image.parent}: rename or remove all but one, and their masks likewise"
                )
            pairs[image] = mask
            break
    return pairs


def _no_normal(root: Path, normal: str) -> str:
    folder = root / normal
    if folder.is_dir():
        return f"{folder}: no images ({', '.join(sorted(SUFFIXES))}): put the normal photos there"
    beside = len(images_in(root)) if root.is_dir() else 0
    if beside:
        return (
            f"{root}: no folder {normal!r} of normal photos, and {beside} photos beside: move the "
            f"normal ones into {folder}, or say where they are: --config.data.folder.normal=."
        )
    there = sorted(d.name for d in root.iterdir() if d.is_dir()) if root.is_dir() else []
    seen = f"there are {some(there, 5)}" if there else "it has no subfolders"
    return f"{root}: no folder {normal!r} of normal photos ({seen}): name it by data.folder.normal"
