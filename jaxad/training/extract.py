"""Features of photos: those of a whole set to keep, and those of some, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxad.core import Variables
from jaxad.data.manifest import Manifest, Record
from jaxad.data.reading import Reading
from jaxad.detector import Detector
from jaxad.parallel import DataParallel, together
from jaxad.progress import track
from jaxad.recipes.recipe import Backbones
from jaxad.training import feature_cache


class Extractor:
    """The frozen networks, compiled once, and the photos that go through them."""

    def __init__(
        self,
        backbones: Backbones,
        detector: Detector,
        reading: Reading,
        parallel: DataParallel,
        *,
        batch_size: int,
        capacity: int,
        dtype: str,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Set up; nothing is computed.

        Args:
            backbones: The frozen networks.
            detector: A detector of them; its method does not matter.
            reading: How photos are read.
            parallel: Over which devices.
            batch_size: Images a program call, over all devices.
            capacity: Images that a cache has room for, so that all are of one shape.
            dtype: Of a cache.
            check: Called before every batch of `extract`; may raise, to end the work.
        """
        self.shapes = detector.feature_shapes(backbones.variables, size=reading.size)
        """Of one image's features, `(1, h, w, C)` each."""
        self._everywhere = parallel
        self._reading, self._parallel = reading, parallel.within()
        self._variables = backbones.variables
        self._frozen = self._parallel.replicate(backbones.variables)
        # Each process computes its share.
        self._batch_size = batch_size // parallel.processes
        self._capacity, self._dtype = capacity, dtype
        self._check = check

        def features(frozen: Variables, images: Any) -> Any:
            return detector.features({"backbones": frozen}, images)

        self._features = self._parallel.map(features)

    @property
    def frozen(self) -> Variables:
        """The networks' variables on all devices, those of other processes too."""
        if self._everywhere.processes == 1:
            return self._frozen
        return self._everywhere.replicate(self._variables)

    def host_shapes(self, images: int) -> Any:
        """Of a cache for so many images, or for `capacity`, if that is more."""
        count = max(images, self._capacity)
        return feature_cache.host_shapes(self.shapes, count, dtype=self._dtype)

    def extract(
        self,
        manifest: Manifest,
        name: str,
        *,
        into: feature_cache.HostFeatures | None = None,
        seen: Callable[[Any], None] | None = None,
    ) -> feature_cache.HostFeatures:
        """Compute every image's features once, on the host.

        Args:
            manifest: The images.
            name: For the progress.
            into: Filled and returned, of the `host_shapes`; None: memory.
            seen: Is given every batch, masks included; None: no masks are read.

        Returns:
            Level -> `(capacity, h, w, C)`, of which the first `len(manifest)` rows are filled.
        """
        count, size = len(manifest), self._batch_size
        cache = feature_cache.allocate(self.host_shapes(count)) if into is None else into
        every = self._everywhere
        share = (every.process, every.processes)
        stream = self._reading.batches(manifest, size, with_masks=seen is not None, share=share)
        done = 0
        whole = size * every.processes
        progress = track(stream, f"{name} features", count, "images", whole, check=self._check)
        for own in progress:
            batch, found = together((own, self._of(own["image"])))
            valid = batch["_mask"]
            feature_cache.store(cache, done, {key: rows[valid] for key, rows in found.items()})
            done += int(valid.sum())
            if seen is not None:
                seen(batch)
        return cache

    def images(
        self,
        records: Sequence[Record],
        root: Path,
        cache: Any,
        index: np.ndarray[Any, np.dtype[Any]],
    ) -> Iterator[Any]:
        """Features of some images, `(1, h, w, C)` each, for passes without gradient.

        One by one, so that what is compiled for them serves any number of images.

        Args:
            records: All images.
            root: Folder of the records.
            cache: Their features, if they were kept; else they are computed.
            index: Which of them, in this order.
        """
        if cache is not None:
            held = isinstance(next(iter(cache.values())), jax.Array)
            for number in index:
                if held:
                    one = self._everywhere.held.row(cache, int(number))
                else:
                    one = feature_cache.take_images(cache, np.asarray([number]))
                yield feature_cache.as_float32(one)
            return
        chosen = Manifest(root, tuple(records[i] for i in index))
        for batch in self._reading.batches(chosen, self._batch_size):
            found = self._of(batch["image"])
            for i in np.flatnonzero(batch["_mask"]):
                yield feature_cache.take_images(found, np.asarray([i]))

    def _of(self, images: Any) -> Any:
        found = self._features(self._frozen, self._parallel.shard(images))
        return self._parallel.gather(found)


def pooled(found: Any) -> np.ndarray[Any, Any]:
    """All features of some images, averaged over positions: `(B, sum of C)`."""
    return np.concatenate([np.mean(x, axis=(1, 2)) for _, x in sorted(found.items())], axis=-1)
