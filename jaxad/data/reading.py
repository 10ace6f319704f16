"""How a run reads photos: size, filter and decoding processes, chosen once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxad.data.manifest import Manifest, Record
from jaxad.data.pipeline import batches


@dataclasses.dataclass(frozen=True)
class Reading:
    """What decides the pixels of a batch."""

    size: tuple[int, int]
    """(H, W)."""
    resample: str
    """A name in `images.FILTERS`."""
    workers: int = 0
    """Decoding processes; 0: threads of this process."""

    def batches(
        self,
        data: Manifest | Sequence[Record],
        batch_size: int,
        *,
        with_masks: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> Any:
        """Batches of the images in their order, the last one padded; see `pipeline.batches`.

        `share` is (i, n): every n-th image from the i-th on, in as many batches for every i.
        """
        return batches(
            data,
            image_size=self.size,
            batch_size=batch_size,
            resample=self.resample,
            workers=self.workers,
            with_masks=with_masks,
            process_index=share[0],
            process_count=share[1],
        )
