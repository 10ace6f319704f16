"""Photos that are arrays already, read as files are: the same batches, without decoding."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxad.data.example import stack
from jaxad.data.manifest import GOOD, Manifest, Record
from jaxad.data.reading import Reading

CATEGORY = "photos"


def records_of(count: int, subclasses: Sequence[str] | None = None) -> tuple[Record, ...]:
    """Records of normal training photos, whose paths are their numbers."""
    kinds = subclasses or [""] * count
    return tuple(Record(str(n), CATEGORY, kinds[n], "train", GOOD) for n in range(count))


@dataclasses.dataclass(frozen=True)
class ArrayReading(Reading):
    """Reads `records_of` photos out of an array of the size that is asked for."""

    images: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros((0, 0, 0, 3), np.uint8), repr=False, compare=False
    )
    """`(N, H, W, 3)` uint8."""

    def batches(
        self,
        data: Manifest | Sequence[Record],
        batch_size: int,
        *,
        with_masks: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> Any:
        """Batches of the photos in their order; see `Reading.batches`. Masks there are none."""
        del with_masks
        records = data.records if isinstance(data, Manifest) else tuple(data)
        return self._batches(records[share[0] :: share[1]], batch_size)

    def _batches(self, records: Sequence[Record], size: int) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(records), size):
            chosen = records[start : start + size]
            yield stack(
                [
                    {"image": self.images[int(record.path)], "_mask": np.asarray(True)}
                    for record in chosen
                ],
                batch_size=size,
            )
