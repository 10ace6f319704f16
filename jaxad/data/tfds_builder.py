"""`visual_ad`: any manifest as a dataset of tensorflow_datasets, without tensorflow.

One array_record of examples for each split, in the manifest's order, each photo at one size:

    builder = VisualAD(manifest, size=(256, 256), data_dir="exported")
    builder.download_and_prepare()
    builder.as_data_source("train")[0]["image"]  # (256, 256, 3) uint8

Later `tfds.builder_from_directory` reads it by itself, so photos go to whoever works with tfds. For
its own runs jaxad keeps them in a plainer form, see `jaxad.data.prepared`.

Not a `GeneratorBasedBuilder`: that one keeps a split in memory and, beyond 1000 MiB of it (5000
photos), writes through tensorflow.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from jaxad.data.manifest import SPLITS, Manifest, Record
from jaxad.data.pipeline import batches
from jaxad.data.prepared import nbytes
from jaxad.progress import Progress

SHARD_BYTES = 128 * 2**20
"""Of one file of a split; tfds keeps as much in memory while it writes."""
LABELS = ("good", "defective")


class VisualAD(tfds.core.ShardBasedBuilder):
    """A manifest's photos and masks at one size.

    An example is a dict of

    - `image` `(H, W, 3)` uint8, and `mask` `(ceil(H * W / 8),)` uint8: `(H, W)` bits, rows first,
      as of `np.packbits`; all 0 where `has_mask` is False and the mask therefore unknown;
    - `label` (0 good, 1 defective), `defect` (its name), `category`, `subclass`, `path`;
    - `index`, position in the manifest.
    """

    name = "visual_ad"
    VERSION = tfds.core.Version("1.0.0")
    url_infos: ClassVar[dict[str, Any]] = {}
    """Nothing is downloaded; tfds 4.9.10 would look for a list by a package that it lacks."""

    def __init__(
        self,
        manifest: Manifest,
        *,
        size: tuple[int, int],
        resample: str = "lanczos",
        workers: int = 0,
        **options: Any,
    ) -> None:
        """Name what to write; nothing is read yet.

        Args:
          manifest: Validated.
          size: `(H, W)`.
          resample: A name in `images.FILTERS`.
          workers: As of `pipeline.batches`.
          **options: Of tfds, first of all `data_dir`.
        """
        self._manifest = manifest
        self._size, self._resample, self._workers = size, resample, workers
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        height, width = self._size
        text = tfds.features.Text
        features = {
            "image": tfds.features.Tensor(
                shape=(height, width, 3), dtype=np.uint8, encoding="bytes"
            ),
            "mask": tfds.features.Tensor(
                shape=(-(-height * width // 8),), dtype=np.uint8, encoding="bytes"
            ),
            "has_mask": tfds.features.Scalar(np.bool_),
            "label": tfds.features.ClassLabel(names=LABELS),
            "defect": text(),
            "category": text(),
            "subclass": text(),
            "path": text(),
            "index": tfds.features.Scalar(np.int64),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Photos for visual anomaly detection, at one size, with masks.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Any]]:
        del dl_manager
        numbered = list(enumerate(self._manifest.records))
        count = max(1, SHARD_BYTES // nbytes(1, self._size))
        progress = Progress("export", len(numbered), "images")
        found = {}
        for split in SPLITS:
            own = [(i, record) for i, record in numbered if record.split == split]
            found[split] = [
                functools.partial(self._examples, own[start : start + count], progress)
                for start in range(0, len(own), count)
            ]
        return {split: shards for split, shards in found.items() if shards}

    def _examples(
        self, own: list[tuple[int, Record]], progress: Progress
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        stream = batches(
            Manifest(self._manifest.root, tuple(record for _, record in own)),
            image_size=self._size,
            batch_size=8,
            resample=self._resample,
            workers=self._workers,
        )
        for batch in stream:
            for row in np.flatnonzero(batch["_mask"]):
                index, record = own[batch["index"][row]]
                yield (
                    index,
                    {
                        "image": batch["image"][row],
                        "mask": np.packbits(batch["mask"][row]),
                        "has_mask": batch["has_mask"][row],
                        "label": int(batch["label"][row]),
                        "defect": _bytes(record.label),
                        "category": _bytes(record.category),
                        "subclass": _bytes(record.subclass),
                        "path": _bytes(record.path),
                        "index": index,
                    },
                )
                progress.advance()


def _bytes(text: str) -> bytes:
    """UTF-8; names of files that are not keep the bytes that they have."""
    return text.encode(errors="surrogateescape")
