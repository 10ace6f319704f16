"""Maps and masks of one category while it is audited: in memory, or in a file without a name."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from jaxad.data.decode import half_covered
from jaxad.data.manifest import Record
from jaxad.files import refusal
from jaxad.memory import free_memory
from jaxad.metrics.audit_table import Photos

MOST = 1 << 30
"""Bytes that are held in memory at most, and a quarter of what is free."""
SAID = 100 << 20
"""Bytes from which on it is said beforehand."""


class Taken:
    """What has been scored of a category; a context that gives `Photos` and frees them."""

    def __init__(
        self,
        name: str,
        records: Sequence[Record],
        root: Path,
        size: Sequence[int],
        folder: Path,
    ) -> None:
        """Make room for every photo.

        Args:
            name: Of the category.
            records: Its test photos.
            root: Folder of the records.
            size: (H, W) of the maps.
            folder: Where a file is made if memory is short; it has no name, and ends with the
                process.

        Raises:
            InputError: The disk has no room.
        """
        shape = len(records), size[0], size[1]
        self._records, self._root = records, root
        self._labels = np.array([not own.is_good for own in records], int)
        self._scores, self._known = np.empty(len(records), np.float32), np.zeros(len(records), bool)
        self._files = ExitStack()
        kinds = {"maps": np.dtype(np.float32), "masks": np.dtype(bool), "halves": np.dtype(bool)}
        total = sum(dtype.itemsize for dtype in kinds.values()) * int(np.prod(shape))
        inside = total <= min(MOST, free_memory() // 4)
        if total >= SAID or not inside:
            where = "memory" if inside else f"a file in {folder}, deleted at the end"
            print(f"{name}: maps and masks take {total / 1e6:.0f} MB in {where}", file=sys.stderr)
        self._maps, self._masks, self._halves = (
            np.zeros(shape, dtype) if inside else self._mapped(folder, shape, dtype)
            for dtype in kinds.values()
        )

    def _mapped(self, folder: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        try:
            file = self._files.enter_context(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115
            size = int(np.prod(shape)) * dtype.itemsize
            if hasattr(os, "posix_fallocate"):  # a full disk would kill the process at a write
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype, "w+", shape=shape)
        except OSError as error:
            self._files.close()
            raise refusal("write", folder, error) from error

    def take(self, rows: slice, batch: Any, maps: np.ndarray, scores: np.ndarray) -> None:
        """Take a batch; see `score_category.scored_batches`."""
        valid = batch["_mask"]
        self._maps[rows], self._scores[rows] = maps, scores
        self._masks[rows], self._known[rows] = batch["mask"][valid], batch["has_mask"][valid]

    def __enter__(self) -> Photos:
        """All photos, once they are taken, with their masks as other codes resize them."""
        size = self._maps.shape[1], self._maps.shape[2]
        for n, own in enumerate(self._records):
            if own.mask:
                self._halves[n] = half_covered(self._root, own, size=size)
        return Photos(
            self._maps, self._masks, self._labels, self._scores, self._known, self._halves
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Free all."""
        del self._maps, self._masks, self._halves
        self._files.close()
