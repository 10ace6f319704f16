"""Positions in chunks give what all at once give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.ops.chunk import ROWS, by_position


@pytest.mark.parametrize("shape", [(8, 32, 32), (3, 56, 56), (1, 5, 7), (1, 2053, 1)])
def test_equals_the_function_on_all_positions(shape, rng):
    a = jax.random.normal(rng, (*shape, 4))
    b = jax.random.normal(jax.random.key(1), (*shape, 2))
    seen = []

    def function(a, b):
        seen.append(len(a))
        return jnp.sum(jnp.square(a), axis=-1) - jnp.sum(b, axis=-1)

    found = jax.jit(lambda a, b: by_position(function, a, b))(a, b)
    np.testing.assert_allclose(
        found, jnp.sum(jnp.square(a), axis=-1) - jnp.sum(b, axis=-1), rtol=1e-5, atol=1e-5
    )
    even = shape[0] * shape[1] * shape[2] <= ROWS or shape[1] == 2053
    assert (min(seen) > ROWS) == (shape[1] == 2053) if even else min(seen) <= ROWS
