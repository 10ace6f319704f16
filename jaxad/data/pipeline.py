"""Records to batches of arrays: one chain of grain transformations, read from top to bottom."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import grain

from jaxad.data.example import load_batch, load_example, stack
from jaxad.data.images import FILTERS
from jaxad.data.manifest import Manifest, Record
from jaxad.data.workers import Workers
from jaxad.errors import InputError


def batches(
    data: Manifest | Sequence[Record],
    *,
    image_size: tuple[int, int],
    batch_size: int,
    resample: str = "lanczos",
    shuffle_seed: int | None = None,
    repeat: bool = False,
    workers: int = 0,
    with_masks: bool = True,
    subclasses: Sequence[str] | None = None,
    process_index: int = 0,
    process_count: int = 1,
    drop_remainder: bool = False,
) -> grain.IterDataset:
    """Decode, resize and batch images; iterate over the result, as often as wanted.

    Every batch is a dict of numpy arrays, all of leading length `batch_size` = B:

    - `image` `(B, H, W, 3)` uint8 RGB;
    - `label` `(B,)` int32, 1 where the record says defective (never taken from the mask);
    - `mask` `(B, H, W)` bool, True on the defect, and `has_mask` `(B,)` bool, whether `mask` is the
      truth: of normal images (all False) and of defective ones that have a mask file. Both are left
      out without `with_masks`;
    - `subclass` `(B,)` int32, position in `subclasses`, -1 where it is not among them;
    - `index` `(B,)` int32, position of the record in `data`;
    - `_mask` `(B,)` bool, False for padding, whose other fields are all 0.

    Without `repeat` every image comes once, in the order of the records unless shuffled, and the
    last batch is padded. Several processes then get as many batches each, with padding where the
    images do not go round. With `repeat` the stream is endless, epochs follow each other without a
    gap, and every batch is full; with several processes the images of an epoch that do not go round
    (fewer than `process_count`, other ones each time if shuffled) are left out.

    The order depends on `shuffle_seed` and the epoch alone, not on threads or workers. Iterators
    have `get_state` and `set_state` and continue at the exact next batch.

    Args:
      data: A manifest, or records whose paths are taken as they are. Only chosen records: select a
        category and a split first. Records that are `prepared` are read from there.
      image_size: `(H, W)`.
      batch_size: Images a batch, of this process.
      resample: A name in `images.FILTERS`.
      shuffle_seed: Shuffles, every epoch anew. None: in order.
      repeat: Endless.
      workers: Processes that decode whole batches; 0: threads of this process. Worth it only where
        threads do not keep up: a worker takes moments to start. They end with the iteration, and
        with this process, whatever ends it. None if all records are prepared: threads read these
        faster than sockets carry them.
      with_masks: Whether to read masks.
      subclasses: Names that `subclass` counts in; None: those of `data`, sorted. Give the same for
        training and test.
      process_index: This process among those that share the images.
      process_count: How many share them.
      drop_remainder: Leave out the last, partial batch instead of padding it.

    Raises:
      InputError: no records, or arguments that yield no batch. While iterating: a file that can not
        be used (see `jaxad.data.images`), the same with threads and workers.
    """
    root = data.root if isinstance(data, Manifest) else Path()
    records = data.records if isinstance(data, Manifest) else tuple(data)
    count = len(records)
    if batch_size < 1 or not 0 <= process_index < process_count:
        raise InputError(
            f"batch_size={batch_size} must be 1 or more, and process_index={process_index} below "
            f"process_count={process_count}"
        )
    if resample not in FILTERS:
        raise InputError(f"unknown resize filter {resample!r}: use one of {', '.join(FILTERS)}")
    whole_shares = repeat or drop_remainder
    shared = count // process_count if whole_shares else -(-count // process_count)
    least = batch_size if drop_remainder and not repeat else 1
    if shared < least:
        raise InputError(
            f"{count} images for {process_count} processes and batch_size={batch_size} make no "
            "batch: add images or lower batch_size"
        )
    if subclasses is None:
        subclasses = sorted({r.subclass for r in records})

    load = functools.partial(
        load_example,
        root=root,
        records=records,
        subclass_ids={name: i for i, name in enumerate(subclasses)},
        image_size=image_size,
        resample=resample,
        with_masks=with_masks,
    )
    # Indexes from `count` on are padding: they even out the shares of the processes.
    ds = grain.MapDataset.range(count if whole_shares else shared * process_count)
    if shuffle_seed is not None:
        ds = ds.seed(shuffle_seed).shuffle()
    ds = ds[process_index : shared * process_count : process_count]
    if repeat:
        ds = ds.repeat()
    if workers and not all(record.prepared for record in records):
        indexes = ds.batch(batch_size, drop_remainder=whole_shares, batch_fn=list)
        decode = Workers(functools.partial(load_batch, load=load, batch_size=batch_size), workers)
        return indexes.map(decode).to_iter_dataset(grain.ReadOptions(workers, 2 * workers))
    threads = decoding_threads()
    ahead = max(2 * batch_size, threads)
    return (
        ds.map(load)
        .to_iter_dataset(grain.ReadOptions(threads, ahead))
        .batch(
            batch_size,
            drop_remainder=whole_shares,
            batch_fn=functools.partial(stack, batch_size=batch_size),
        )
    )


def decoding_threads() -> int:
    """How many threads of a process decode."""
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
