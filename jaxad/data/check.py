"""What is in a dataset and what is wrong with it, all of it at once: `jaxad data check`."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from jaxad.data.calibration_split import SHARE, hold_calibration, leaks
from jaxad.data.confine import path_judge
from jaxad.data.decode import (
    image_path,
    mask_path,
    read_header,
    read_image,
    read_mask,
    read_mask_headers,
)
from jaxad.data.digests import photo_digests
from jaxad.data.images import mask_size_message, vanishes
from jaxad.data.layouts import guess_layout, scan_dataset
from jaxad.data.left_out import left_out
from jaxad.data.manifest import Manifest, Record, problems, some
from jaxad.errors import InputError

LIMIT = 20
"""At most so many problems and so many remarks are listed; the rest is counted."""


class Finding(NamedTuple):
    """What one record's files say."""

    mode: str = ""
    size: tuple[int, int] = (0, 0)
    problem: str = ""
    """Why the record can not be used."""
    remark: str = ""
    """What is worth a look, though usable."""
    vanishes: bool = False
    """Whether the mask is too small to be seen at the size asked for."""


def check_dataset(
    root: str | os.PathLike[str],
    *,
    layout: str = "",
    categories: Sequence[str] = (),
    decode: bool = False,
    image_size: tuple[int, int] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    calibration: float = SHARE,
) -> tuple[str, bool]:
    """Read a dataset and describe it; see `describe`.

    Args:
      root: The dataset's folder.
      layout: Its layout; "": guessed from the folder.
      categories: The categories to check, all if empty.
      decode: Whether to decode every file.
      image_size: See `describe`.
      options: Of layouts, by their names, e.g. `{"folder": {"normal": "ok"}}`.
      calibration: See `describe`.

    Returns:
      The description, and whether the dataset can be used.

    Raises:
      InputError: the layout can not be read at all.
    """
    layout = layout or guess_layout(root)
    own = (options or {}).get(layout, {})
    manifest = scan_dataset(layout, root, categories=categories, **own)
    text, ok = describe(
        manifest, layout=layout, decode=decode, image_size=image_size, calibration=calibration
    )
    return f"layout {layout}\n{text}", ok


def describe(
    manifest: Manifest,
    *,
    layout: str = "",
    decode: bool = False,
    image_size: tuple[int, int] | None = None,
    calibration: float = SHARE,
) -> tuple[str, bool]:
    """Describe a manifest in lines of text: counts, sizes and modes, then all problems found.

    Files that are not used are counted and named, see `left_out`.

    Args:
      manifest: Judged or not.
      layout: Its layout's name, for the mends.
      decode: Decode every image and mask whole, which also finds files damaged after their header
        and masks that contradict the label. Without it only headers are judged.
      image_size: `(H, W)` of training, to count the masks of which nothing is seen at that size;
        takes `decode`.
      calibration: Share of the training images that training would hold back.

    Returns:
      The text, and whether nothing stands in the way of using the dataset.
    """
    found = list(problems(manifest))
    # Records that are absent or lead out of the root are problems already, and are not opened.
    judges = {r.root: path_judge(manifest.root / r.root) for r in manifest.records}
    usable = [
        r
        for r in _by_files(manifest).values()
        if r.path
        and not judges[r.root](r.path)
        and not (r.mask and judges[r.root](r.mask, mask=True))
    ]
    if decode:  # threads help with pixels, which Pillow decodes outside the GIL, not with headers
        with ThreadPoolExecutor() as pool:
            decoded = functools.partial(_decoded, manifest.root, image_size=image_size)
            findings = list(pool.map(decoded, usable))
    else:
        findings = [_headers(manifest.root, r) for r in usable]
    by_files = {_files(r): finding for r, finding in zip(usable, findings)}
    sound = tuple(r for r, finding in zip(usable, findings) if not finding.problem)
    try:
        digests = photo_digests(Manifest(manifest.root, sound))
    except InputError as error:  # an example within a file, damaged
        found.append(str(error))
        digests = {}
    manifest = hold_calibration(manifest, calibration, digests)
    lines = [f"root {folder}" for folder in manifest.folders]
    lines.append(f"{len(manifest)} images, {_plural(manifest.categories)}")
    for category in manifest.categories:
        lines += _describe_category(manifest.select(category), by_files)
    found += [f.problem for f in findings if f.problem]
    remarks = [f.remark for f in findings if f.remark] + list(leaks(manifest, digests))
    small = [r.mask for r, f in zip(usable, findings) if f.vanishes]
    if small and image_size:
        height, width = image_size
        remarks.append(
            f"{len(small)} masks are too small to be seen at {width}x{height}: {some(small)}: one "
            "pixel of each is kept; a larger data.image_size shows them"
        )
    if manifest.records:
        lines += left_out(manifest, layout=layout)
    lines += _listed("remark", remarks) + _listed("problem", found)
    if not found:
        lines.append("no problems" + ("" if decode else " (headers only)"))
    return "\n".join(lines), not found


def require_readable(manifest: Manifest) -> None:
    """Read every header before long work begins, so that it does not end in a bad file.

    Raises:
      InputError: with the first file that can not be used, and how many more there are.
    """
    findings = (_headers(manifest.root, record) for record in _by_files(manifest).values())
    found = [finding.problem for finding in findings if finding.problem]
    if found:
        more = f" (and {len(found) - 1} more: see jaxad data check)" if len(found) > 1 else ""
        raise InputError(found[0] + more)


def _files(record: Record) -> tuple[str, str, str]:
    return record.root, record.path, record.mask


def _by_files(manifest: Manifest) -> dict[tuple[str, str, str], Record]:
    """One record for each image and mask, which several categories may share."""
    return {_files(record): record for record in manifest.records}


def _describe_category(
    part: Manifest, findings: dict[tuple[str, str, str], Finding]
) -> Iterator[str]:
    def number(split: str, label_test: Callable[[Record], bool]) -> int:
        return sum(r.split == split and label_test(r) for r in part.records)

    defective = [r for r in part.records if not r.is_good]
    yield (
        f"{part.categories[0]}: train {number('train', lambda r: r.is_good)} good, "
        f"calibration {number('calibration', lambda r: r.is_good)} good, "
        f"test {number('test', lambda r: r.is_good)} good + {len(defective)} defective"
    )
    if defective:
        labels = Counter(r.label for r in defective)
        yield "  defects: " + ", ".join(f"{name} {n}" for name, n in sorted(labels.items()))
        masked = sum(bool(r.mask) for r in defective)
        yield f"  masks: {masked} present, {len(defective) - masked} missing"
    if part.subclasses != ("",):
        subclasses = Counter(r.subclass for r in part.records)
        yield "  subclasses: " + ", ".join(f"{name} {n}" for name, n in sorted(subclasses.items()))
    found = (findings.get(_files(r)) for r in part.records)
    read = [finding for finding in found if finding and finding.mode]
    modes = Counter(f.mode for f in read)
    sizes = Counter(f.size for f in read)
    yield "  modes: " + ", ".join(f"{mode} {n}" for mode, n in modes.most_common())
    common = ", ".join(f"{w}x{h} {n}" for (h, w), n in sizes.most_common(5))
    yield f"  sizes: {common}" + (f" and {len(sizes) - 5} more" if len(sizes) > 5 else "")


def _headers(root: Path, record: Record) -> Finding:
    try:
        mode, size = read_header(root, record)
        for path, header in read_mask_headers(root, record):
            if header.size != size:
                message = mask_size_message(
                    path,
                    header.size,
                    image_path(root, record),
                    size,
                    upright=not record.as_stored,
                )
                return Finding(mode, size, problem=message)
    except InputError as error:
        return Finding(problem=str(error))
    return Finding(mode, size)


def _decoded(root: Path, record: Record, *, image_size: tuple[int, int] | None) -> Finding:
    try:
        mode = read_header(root, record).mode
        image = read_image(root, record)
        size = (image.height, image.width)
        remark, small = "", False
        if record.mask:
            marked = read_mask(root, record, image_size=size)
            small = image_size is not None and vanishes(marked, image_size)
            if marked.all():
                remark = f"{mask_path(root, record)}: the mask marks every pixel: is it inverted?"
            if not record.is_good and not marked.any():
                remark = f"{mask_path(root, record)}: the mask of a defective image is empty"
            if record.is_good and marked.any():
                remark = f"{mask_path(root, record)}: the mask of a normal image is not empty"
    except InputError as error:
        return Finding(problem=str(error))
    return Finding(mode, size, remark=remark, vanishes=small)


def _plural(categories: Sequence[str]) -> str:
    return f"{len(categories)} categor{'y' if len(categories) == 1 else 'ies'}"


def _listed(kind: str, lines: list[str]) -> list[str]:
    shown = [f"{kind}: {line}" for line in lines[:LIMIT]]
    return shown + ([f"{kind}: and {len(lines) - LIMIT} more"] if len(lines) > LIMIT else [])
