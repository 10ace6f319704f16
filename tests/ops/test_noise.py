"""Noise belongs to an element, wherever and in whatever company it is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.core import InputError
from jaxad.ops.noise import elements, normal_by_element


def test_any_part_of_a_batch_draws_what_the_whole_does(rng):
    whole = normal_by_element(rng, jnp.arange(8), (3, 5))
    assert whole.shape == (8, 3, 5)
    parts = jax.pmap(lambda e: normal_by_element(rng, e, (3, 5)))(jnp.arange(8).reshape(4, 2))
    np.testing.assert_array_equal(parts.reshape(8, 3, 5), whole)
    some = normal_by_element(rng, jnp.asarray([6, 1]), (3, 5))
    np.testing.assert_array_equal(some, whole[jnp.asarray([6, 1])])


def test_draws_are_standard_normal_and_differ_from_key_to_key(rng):
    keys = jax.random.split(rng)
    one, two = (normal_by_element(key, jnp.arange(64), (500,)) for key in keys)
    assert abs(float(one.mean())) < 0.02
    assert abs(float(one.std()) - 1) < 0.02
    assert len(np.unique(one)) > 31_900
    assert float(jnp.abs(one - two).min(axis=1).max()) > 0
    assert one.dtype == jnp.float32


def test_without_places_the_batch_is_the_whole():
    np.testing.assert_array_equal(elements({}, 3), [0, 1, 2])
    np.testing.assert_array_equal(elements({"element": np.asarray([4, 2])}, 2), [4, 2])
    with pytest.raises(InputError, match=r"shape \(2,\): give one place .* of the 3 elements"):
        elements({"element": np.asarray([4, 2])}, 3)
