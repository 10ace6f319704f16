"""What is in a dataset and what is wrong with it, all of it at once: `jaxad data check`."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from jaxad.data.confine import path_judge
from jaxad.data.decode import (
    decode_mask,
    image_path,
    mask_path,
    read_header,
    read_image,
    read_mask_header,
)
from jaxad.data.images import mask_size_message
from jaxad.data.layouts import guess_layout, scan_dataset
from jaxad.data.manifest import Manifest, Record, problems
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


def check_dataset(
    root: str | os.PathLike[str],
    *,
    layout: str = "",
    categories: Sequence[str] = (),
    decode: bool = False,
    **options: Any,
) -> tuple[str, bool]:
    """Read a dataset and describe it; see `describe`.

    Args:
      root: The dataset's folder.
      layout: Its layout; "": guessed from the folder.
      categories: The categories to check, all if empty.
      decode: Whether to decode every file.
      **options: Of the layout.

    Returns:
      The description, and whether the dataset can be used.

    Raises:
      InputError: the layout can not be read at all.
    """
    layout = layout or guess_layout(root)
    manifest = scan_dataset(layout, root, categories=categories, **options)
    text, ok = describe(manifest, decode=decode)
    return f"layout {layout}\n{text}", ok


def describe(manifest: Manifest, *, decode: bool = False) -> tuple[str, bool]:
    """Describe a manifest in lines of text: counts, sizes and modes, then all problems found.

    Args:
      manifest: Judged or not.
      decode: Decode every image and mask whole, which also finds files damaged after their header
        and masks that contradict the label. Without it only headers are read.

    Returns:
      The text, and whether nothing stands in the way of using the dataset.
    """
    found = list(problems(manifest))
    # Records that are absent or lead out of the root are problems already, and are not opened.
    judges = {r.root: path_judge(manifest.root / r.root) for r in manifest.records}
    usable = [
        r
        for r in _by_files(manifest).values()
        if r.path and not any(judges[r.root](name) for name in (r.path, r.mask) if name)
    ]
    if decode:  # threads help with pixels, which Pillow decodes outside the GIL, not with headers
        with ThreadPoolExecutor() as pool:
            findings = list(pool.map(functools.partial(_decoded, manifest.root), usable))
    else:
        findings = [_headers(manifest.root, r) for r in usable]
    by_files = {_files(r): finding for r, finding in zip(usable, findings)}
    lines = [f"root {folder}" for folder in manifest.folders]
    lines.append(f"{len(manifest)} images, {_plural(manifest.categories)}")
    for category in manifest.categories:
        lines += _describe_category(manifest.select(category), by_files)
    found += [f.problem for f in findings if f.problem]
    remarks = [f.remark for f in findings if f.remark]
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
        if record.mask:
            mask_size = read_mask_header(root, record).size
            if mask_size != size:
                message = mask_size_message(
                    mask_path(root, record),
                    mask_size,
                    image_path(root, record),
                    size,
                    upright=not record.as_stored,
                )
                return Finding(mode, size, problem=message)
    except InputError as error:
        return Finding(problem=str(error))
    return Finding(mode, size)


def _decoded(root: Path, record: Record) -> Finding:
    try:
        mode = read_header(root, record).mode
        image = read_image(root, record)
        size = (image.height, image.width)
        remark = ""
        if record.mask:
            marked = decode_mask(root, record, size=size, image_size=size)
            if not record.is_good and not marked.any():
                remark = f"{mask_path(root, record)}: the mask of a defective image is empty"
            if record.is_good and marked.any():
                remark = f"{mask_path(root, record)}: the mask of a normal image is not empty"
    except InputError as error:
        return Finding(problem=str(error))
    return Finding(mode, size, remark=remark)


def _plural(categories: Sequence[str]) -> str:
    return f"{len(categories)} categor{'y' if len(categories) == 1 else 'ies'}"


def _listed(kind: str, lines: list[str]) -> list[str]:
    shown = [f"{kind}: {line}" for line in lines[:LIMIT]]
    return shown + ([f"{kind}: and {len(lines) - LIMIT} more"] if len(lines) > LIMIT else [])
