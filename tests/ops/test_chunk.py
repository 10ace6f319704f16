"""Positions and images in chunks give what all at once give."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.ops.chunk import PIXELS, ROWS, by_image, by_position


@pytest.mark.parametrize("shape", [(8, 32, 32), (3, 56, 56), (1, 5, 7), (1, 2053, 1)])
def test_equals_the_function_on_all_positions(shape, rng):
    a = jax.random.normal(rng, (*shape, 4))
    b = jax.random.normal(jax.random.key(1), (*shape, 2))
    seen = []

    def function(a, b):
        if a.ndim == 2:  # else it is traced for another run time
            seen.append(len(a))
        return jnp.sum(jnp.square(a), axis=-1) - jnp.sum(b, axis=-1)

    found = jax.jit(lambda a, b: by_position(function, a, b))(a, b)
    np.testing.assert_allclose(
        found, jnp.sum(jnp.square(a), axis=-1) - jnp.sum(b, axis=-1), rtol=1e-5, atol=1e-5
    )
    even = shape[0] * shape[1] * shape[2] <= ROWS or shape[1] == 2053
    assert (min(seen) > ROWS) == (shape[1] == 2053) if even else min(seen) <= ROWS


@pytest.mark.parametrize(
    ("batch", "size", "at_a_time"),
    [
        (8, (256, 256), 2),
        (3, (256, 256), 1),
        (2, (512, 512), 1),
        (4, (300, 200), 2),
        (6, (64, 64), 6),
    ],
)
def test_images_pass_a_few_at_a_time(batch, size, at_a_time):
    images = np.random.default_rng(0).integers(0, 256, (batch, *size, 3), np.uint8)
    seen = []

    def function(images):
        seen.append(len(images))
        x = images.astype(jnp.float32)
        return {"map": x[:, ::2, ::2, 0] - x[:, 1::2, 1::2, 1], "mean": jnp.mean(x, axis=(1, 2))}

    found = jax.jit(lambda images: by_image(function, images))(images)
    assert min(seen) == at_a_time
    assert at_a_time == 1 or at_a_time * size[0] * size[1] <= PIXELS
    for name, value in function(images).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (256, 256)])
def test_a_symbolic_batch_gives_what_a_known_one_gives(size):
    def function(images):
        x = images.astype(jnp.float32)
        maps = x[:, :: size[0] // 16, :: size[1] // 32 or 1]
        return by_position(lambda a: jnp.sum(a * a, axis=-1), maps), jnp.mean(x, axis=(1, 2))

    whole = jax.jit(lambda images: by_image(function, images))
    (batch,) = jax.export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8)
    exported = jax.export.export(whole, platforms=("cpu", "cuda", "tpu"))(shape)
    for count in (1, 3):
        images = np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8)
        for found, want in zip(exported.call(images), function(images), strict=True):
            np.testing.assert_allclose(found, want, rtol=1e-6)
