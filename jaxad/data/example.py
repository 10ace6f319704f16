"""One record decoded to the fields of a batch, and a batch of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxad.data.decode import decode_mask, read_image
from jaxad.data.images import to_array
from jaxad.data.manifest import Record

Batch = dict[str, np.ndarray]


def load_example(
    index: int,
    *,
    root: Path,
    records: tuple[Record, ...],
    subclass_ids: Mapping[str, int],
    image_size: tuple[int, int],
    resample: str,
    with_masks: bool,
) -> Batch:
    """Decode one record to the fields of a batch without their leading axis.

    Args:
      index: Of the record; beyond the last one: padding.
      root: Folder of the records' paths.
      records: All of them.
      subclass_ids: Name to what stands for it; -1 stands for others.
      image_size: `(H, W)`.
      resample: A name in `images.FILTERS`.
      with_masks: Whether to read masks.

    Raises:
      InputError: A file that can not be used.
    """
    height, width = image_size
    example: dict[str, Any] = {
        "image": np.zeros((height, width, 3), np.uint8),
        "label": np.int32(0),
        "subclass": np.int32(0),
        "index": np.int32(0),
        "_mask": np.bool_(False),
    }
    if with_masks:
        example |= {"mask": np.zeros((height, width), np.bool_), "has_mask": np.bool_(False)}
    if index >= len(records):
        return example
    record = records[index]
    example["label"] = np.int32(not record.is_good)
    example["subclass"] = np.int32(subclass_ids.get(record.subclass, -1))
    example["index"] = np.int32(index)
    example["_mask"] = np.bool_(True)
    if with_masks:
        example["has_mask"] = np.bool_(record.is_good or bool(record.mask))
    if record.prepared:
        from jaxad.data import prepared  # takes seconds, which a worker that decodes need not wait

        example["image"], mask = prepared.read(
            record, size=image_size, resample=resample, with_mask=with_masks
        )
        return example | ({} if mask is None else {"mask": mask})
    image = read_image(root, record)
    example["image"] = to_array(image, size=image_size, resample=resample)
    if with_masks and record.mask:
        example["mask"] = decode_mask(
            root, record, size=image_size, image_size=(image.height, image.width)
        )
    return example


def stack(examples: Sequence[Batch], *, batch_size: int) -> Batch:
    """Make a batch of examples; all fields of what is missing are 0."""
    batch = {}
    for name in examples[0]:
        first = np.asarray(examples[0][name])
        batch[name] = np.zeros((batch_size, *first.shape), first.dtype)
        for place, example in zip(batch[name], examples) if first.shape else ():
            place[...] = example[name]
        if not first.shape:
            batch[name][: len(examples)] = [example[name] for example in examples]
    return batch


def load_batch(indexes: Sequence[int], *, load: Callable[[int], Batch], batch_size: int) -> Batch:
    """Decode a batch of records.

    Args:
      indexes: What `load` takes, one for each example.
      load: Makes an example.
      batch_size: Of the batch, padded where there are fewer.
    """
    return stack([load(index) for index in indexes], batch_size=batch_size)
