"""Layout `mvtec_ad`, the tree of MVTec AD and of many datasets after it.

- `<root>/<category>/train/good/NNN.png`
- `<root>/<category>/calibration/good/NNN.png`, if it has photos to set thresholds by of its own
- `<root>/<category>/test/<good or defect>/NNN.png`
- `<root>/<category>/ground_truth/<defect>/NNN_mask.png`, or a folder `NNN` of several masks, which
  count together (MVTec LOCO AD)
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from jaxad.data.listing import folders, images_in, masks_in
from jaxad.data.manifest import GOOD, SPLITS, Manifest, Record, canonical_label
from jaxad.errors import InputError


def scan(root: str | os.PathLike[str]) -> Manifest:
    """List the images of every category folder of `root`, in sorted order.

    A mask is paired by stem, `NNN_mask` or else `NNN`; a defective image without one keeps mask "".

    Raises:
      InputError: no category folder there; where the root is one level off, the right one is named.
        A mask that fits two images.
    """
    root = Path(root)
    categories = [d for d in folders(root) if _is_category(d)]
    if not categories:
        raise InputError(_no_category(root))
    return Manifest(root, tuple(r for c in categories for r in _category_records(root, c)))


def _category_records(root: Path, category: Path) -> list[Record]:
    records = []
    for split in SPLITS:
        for folder in folders(category / split):
            label = canonical_label(folder.name)
            masks = {} if label == GOOD else masks_in(category / "ground_truth" / folder.name)
            images = images_in(folder)
            times = Counter(image.stem for image in images)
            for image in images:
                mask = masks.get(f"{image.stem}_mask") or masks.get(image.stem)
                if mask and times[image.stem] > 1:
                    raise InputError(
                        f"{mask}: fits {times[image.stem]} images named {image.stem} in {folder}: "
                        "rename or remove all but one, and their masks likewise"
                    )
                records.append(
                    Record(
                        path=image.relative_to(root).as_posix(),
                        category=category.name,
                        subclass="",
                        split=split,
                        label=label,
                        mask=mask.relative_to(root).as_posix() if mask else "",
                    )
                )
    return records


def _is_category(path: Path) -> bool:
    return (path / "train").is_dir() or (path / "test").is_dir()


def _no_category(root: Path) -> str:
    if _is_category(root):
        return f"{root}: this is one category: set data.root to the folder above it"
    if _is_category(root.absolute().parent):
        return f"{root}: this is a part of a category: set data.root two folders higher"
    for deeper in folders(root):
        if any(_is_category(d) for d in folders(deeper)):
            return (
                f"{root}: the categories are one level deeper: set data.root to {deeper}, or "
                "data.layout to texture_ad where those are subclasses"
            )
    return (
        f"{root}: no <category>/train folder here: set data.root, or data.layout (folder: photos "
        "in good/ and bad/; jaxad data check looks what it is)"
    )
