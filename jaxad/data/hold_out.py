"""Hold a fixed fifth of the normal images out of training, where a dataset has no split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def held_out_fifth(names: Iterable[str]) -> frozenset[str]:
    """Choose a fifth of the names (rounded up, never all), the same on every machine.

    The names are ranked by the SHA-256 of their UTF-8 bytes, and the first fifth of that order is
    taken: as good as random, without a seed, and whatever the order of the names.
    """
    ranked = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).digest())
    count = -(-len(ranked) // 5) if len(ranked) > 1 else 0
    return frozenset(ranked[:count])
