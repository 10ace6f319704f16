"""The feature cache, and what is drawn from it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.core import InputError
from jaxad.training import feature_cache as features

SHAPES = {"a/x": jax.ShapeDtypeStruct((1, 4, 5, 3), np.float32)}


def test_a_cache_takes_as_many_bytes_as_foretold() -> None:
    for dtype, size in (("float32", 4), ("float16", 2)):
        cache = features.allocate(features.host_shapes(SHAPES, 7, dtype=dtype))
        assert cache["a/x"].shape == (7, 4, 5, 3)
        assert features.nbytes(SHAPES, 7, dtype=dtype) == cache["a/x"].nbytes == 7 * 60 * size


def test_features_come_back_from_either_dtype() -> None:
    values = np.random.default_rng(0).standard_normal((2, 4, 5, 3)).astype(np.float32)
    for dtype, tolerance in (("float32", 0.0), ("float16", 1e-3)):
        cache = features.allocate(features.host_shapes(SHAPES, 7, dtype=dtype))
        features.store(cache, 3, {"a/x": values})
        found = features.as_float32(features.take_images(cache, np.asarray([4, 3])))
        assert found["a/x"].dtype == np.float32
        np.testing.assert_allclose(found["a/x"], values[::-1], rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pixels_are_kept_as_bytes(dtype: str) -> None:
    shapes = {**SHAPES, "p/image": jax.ShapeDtypeStruct((1, 8, 10, 3), np.uint8)}
    cache = features.allocate(features.host_shapes(shapes, 7, dtype=dtype))
    assert cache["p/image"].nbytes == 7 * 240
    total = sum(values.nbytes for values in cache.values())
    assert features.nbytes(shapes, 7, dtype=dtype) == total
    photos = np.random.default_rng(0).integers(0, 256, (7, 8, 10, 3), np.uint8)
    features.store(cache, 0, {"p/image": photos})
    found = features.as_float32(features.take_images(cache, np.asarray([4, 3])))["p/image"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, photos[[4, 3]])


@pytest.mark.parametrize(("value", "dtype"), [(7e4, "float16"), (np.nan, "float32")])
def test_a_feature_that_does_not_fit_is_named(value: float, dtype: str) -> None:
    cache = features.allocate(features.host_shapes(SHAPES, 2, dtype=dtype))
    values = np.full((1, 4, 5, 3), value, np.float32)
    with pytest.raises(InputError, match=f"'a/x' is not a finite {dtype}"):
        features.store(cache, 0, {"a/x": values})


GRIDS = {"a/x": (3, 4, 5, 2), "b/y": (3, 4, 5, 6)}


def grids() -> dict[str, np.ndarray]:
    """Features that say where they are: image, row and column."""
    at = np.stack(np.meshgrid(*map(np.arange, (3, 4, 5)), indexing="ij"), axis=-1)
    code = at @ np.asarray([100, 10, 1])
    return {
        name: np.repeat(code[..., None], shape[-1], -1).astype(np.float32)
        for name, shape in GRIDS.items()
    }


@pytest.mark.parametrize("place", [np.asarray, jnp.asarray])
def test_positions_are_the_same_of_each_level(place: Any) -> None:
    cache = {name: place(x) for name, x in grids().items()}
    found = features.take_positions(cache, np.asarray([0, 21, 59, 21]))
    assert {name: x.shape for name, x in found.items()} == {"a/x": (4, 2), "b/y": (4, 6)}
    for x in found.values():
        want = np.broadcast_to(np.asarray([[0], [101], [234], [101]]), x.shape)
        np.testing.assert_array_equal(x, want)


@pytest.mark.parametrize("place", [np.asarray, jnp.asarray])
def test_a_level_of_one_position_is_that_of_all_positions_of_its_image(place: Any) -> None:
    whole = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1)
    cache = {name: place(x) for name, x in {**grids(), "a/whole": whole}.items()}
    found = features.take_positions(cache, np.asarray([0, 21, 59, 21]))
    np.testing.assert_array_equal(found["a/whole"], [[0], [1], [2], [1]])
    np.testing.assert_array_equal(found["a/x"][:, 0], [0, 101, 234, 101])
    element = jnp.arange(3, dtype=jnp.int32)
    maps = {name: jnp.asarray(x) for name, x in cache.items()}
    drawn, _ = features.draw_positions(jax.random.key(0), maps, element, each=5, batch=3)
    np.testing.assert_array_equal(drawn["a/whole"][:, 0], np.asarray(drawn["a/x"])[:, 0] // 100)


def test_levels_of_other_grids_share_no_positions() -> None:
    other = {"a/x": np.zeros((3, 4, 5, 2)), "b/y": np.zeros((3, 2, 5, 2))}
    with pytest.raises(InputError, match="levels of other grids can not share drawn positions"):
        features.take_positions(other, np.asarray([0]))
    element = jnp.arange(3, dtype=jnp.int32)
    with pytest.raises(InputError, match=r"set train\.positions=\(\)"):
        features.draw_positions(jax.random.key(0), other, element, each=1, batch=3)


def test_as_many_positions_of_every_image_are_drawn_over_the_whole_map() -> None:
    maps = {name: jnp.asarray(x) for name, x in grids().items()}
    element = jnp.asarray([5, 3, 4], jnp.int32)  # one device's part of six images
    found, places = features.draw_positions(jax.random.key(0), maps, element, each=200, batch=6)
    a, b = np.asarray(found["a/x"])[:, 0], np.asarray(found["b/y"])[:, 0]
    np.testing.assert_array_equal(a, b)
    # Images follow each other as in the batch, so that subclasses stay in turn.
    np.testing.assert_array_equal(a // 100, np.tile([0, 1, 2], 200))
    np.testing.assert_array_equal(places, (6 * np.arange(200)[:, None] + [5, 3, 4]).ravel())
    assert len(set(a[a < 100].tolist())) == 20  # every position
    # An image's draw goes by its place, whoever else is there.
    alone, _ = features.draw_positions(
        jax.random.key(0),
        {name: x[1:2] for name, x in maps.items()},
        element[1:2],
        each=200,
        batch=6,
    )
    np.testing.assert_array_equal(np.asarray(alone["a/x"])[:, 0], a[1::3])
    again, _ = features.draw_positions(jax.random.key(1), maps, element, each=200, batch=6)
    assert not np.array_equal(np.asarray(again["a/x"])[:, 0], a)


@pytest.mark.parametrize(
    ("wish", "need", "device", "host", "place"),
    [
        ("auto", 59, 100, 1000, "device"),
        ("auto", 61, 100, 1000, "host"),
        ("auto", 59, 0, 100, "host"),
        ("auto", 61, 0, 100, "off"),
        ("auto", 61, 100, 100, "off"),
        ("device", 61, 0, 0, "device"),
        ("host", 61, 1000, 0, "host"),
        ("off", 1, 1000, 1000, "off"),
    ],
)
def test_a_cache_takes_a_share_of_what_is_free(
    wish: str, need: int, device: int, host: int, place: str
) -> None:
    assert features.cache_place(wish, need, device=device, host=host) == place
