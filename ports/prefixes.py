"""Prefixes that wrappers of a network put before the names of all its arrays, taken off.

`nn.DataParallel` and `AveragedModel` write `module.conv1.weight`, `torch.compile` `_orig_mod.…`,
and a network within a trainer's module (Lightning) gets the name of the attribute it lies under.
The rule is the same for every container.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.")
"""None of them begins a name of a naming that is known, so none can be part of a network."""
MAX_DEPTH = 4
"""Wrappers around one another: the module of a trainer, compiled, averaged, in parallel."""
COUNTER = "n_averaged"
"""What `AveragedModel` adds beside the arrays that it wraps."""


def unwrapped(state: Mapping[str, T]) -> dict[str, T]:
    """Take off each prefix of `WRAPPERS` that all names carry, and `COUNTER` beside them."""
    state = dict(state)
    for _ in range(MAX_DEPTH):
        names = [name for name in state if name != COUNTER]
        for prefix in WRAPPERS:
            if names and all(name.startswith(prefix) for name in names):
                state = {name[len(prefix) :]: state[name] for name in names}
                break
    return state
