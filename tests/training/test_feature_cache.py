"""The feature cache, and what is drawn from it."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxad.core import InputError
from jaxad.training import feature_cache as features

SHAPES = {"a/x": jax.ShapeDtypeStruct((1, 4, 5, 3), np.float32)}


def test_a_cache_takes_as_many_bytes_as_foretold() -> None:
    for dtype, size in (("float32", 4), ("float16", 2)):
        cache = features.allocate(SHAPES, 7, dtype=dtype)
        assert cache["a/x"].shape == (7, 4, 5, 3)
        assert features.nbytes(SHAPES, 7, dtype=dtype) == cache["a/x"].nbytes == 7 * 60 * size


def test_features_come_back_from_either_dtype() -> None:
    values = np.random.default_rng(0).standard_normal((2, 4, 5, 3)).astype(np.float32)
    for dtype, tolerance in (("float32", 0.0), ("float16", 1e-3)):
        cache = features.allocate(SHAPES, 7, dtype=dtype)
        features.store(cache, 3, {"a/x": values})
        found = features.as_float32(features.take_images(cache, np.asarray([4, 3])))
        assert found["a/x"].dtype == np.float32
        np.testing.assert_allclose(found["a/x"], values[::-1], rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize(("value", "dtype"), [(7e4, "float16"), (np.nan, "float32")])
def test_a_feature_that_does_not_fit_is_named(value: float, dtype: str) -> None:
    cache = features.allocate(SHAPES, 2, dtype=dtype)
    values = np.full((1, 4, 5, 3), value, np.float32)
    with pytest.raises(InputError, match=f"'a/x' is not a finite {dtype}"):
        features.store(cache, 0, {"a/x": values})
