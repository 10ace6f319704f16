"""One of two processes that take three steps of every method: `several_steps.py OUT I PORT`."""

from __future__ import annotations

import os
import sys
from typing import Any


def main(out: str, index: int, port: str) -> None:
    """Join the other, take the steps, write what they come to."""
    # The last of two flags counts.
    os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=2"
    from jaxad.runs.joining import join

    assert join(f"127.0.0.1:{port}", 2, index)

    import jax
    import jax.numpy as jnp
    import numpy as np
    from test_same_everywhere import METHODS, features, place

    from jaxad.parallel import data_parallel
    from jaxad.recipes.recipe import Phase
    from jaxad.training import phases
    from jaxad.training.fit import training_key
    from jaxad.training.state import init_state

    jax.config.update("jax_enable_x64", True)
    parallel = data_parallel("jit")
    found: dict[str, Any] = {}
    for name, (make, groups, positions) in METHODS.items():
        method = make(None)
        like = {key: jnp.asarray(x[:1]) for key, x in features(0, 0).items()}
        state = init_state(jax.jit(method.init)(jax.random.key(1), like), method.optimizer(3))
        phase = Phase("all", method, 3, positions, ("net/a", "net/b"))
        computing = phases.Computing(parallel)
        step = phases.cached_step(phase, 3, groups=groups, computing=computing)
        state, rng = map(parallel.replicate, (state, training_key(888, "all")))
        for n in range(3):
            whole = features(n, positions)
            rows = {**whole, "element": place(whole)}
            own = {key: x[parallel.own(len(x))] for key, x in rows.items()}
            state, _ = step(state, {}, parallel.shard(own), rng)
        for number, leaf in enumerate(jax.tree.leaves(state)):
            found[f"{name}-{number}"] = np.asarray(leaf)
    np.savez(out, **found)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
