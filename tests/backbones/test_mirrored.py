"""The network that sees photos twice: it says the same of a photo and of its mirror image."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.backbones.mirrored import mirrored
from jaxad.backbones.weights import init_backbone


@functools.cache
def both() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Maps of two photos by a network, by the same mirrored, and by that of the photos mirrored."""
    network, variables = init_backbone("resnet18", jax.random.key(0), levels=("layer1", "layer2"))
    twice, held = mirrored(network, variables)
    assert list(twice.levels) == list(network.levels)
    photos = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    of = jax.jit(twice.features)
    turned = np.ascontiguousarray(photos[:, :, ::-1])
    plain = jax.jit(network.features)(variables, jnp.concatenate([photos, turned]))
    return dict(plain), dict(of(held, photos)), dict(of(held, turned))


def test_maps_are_the_mean_of_both_turned_back() -> None:
    plain, found, _ = both()
    assert set(found) == set(plain) == {"layer1", "layer2"}
    for name, x in plain.items():
        seen, reflected = np.split(np.asarray(x), 2)
        want = (seen + reflected[:, :, ::-1]) / 2
        np.testing.assert_allclose(found[name], want, rtol=1e-5, atol=1e-5 * abs(want).max())
        assert abs(found[name] - seen).max() > 0.01 * abs(seen).max()  # the mirror image counts


def test_of_a_mirrored_photo_they_are_the_mirrored_maps() -> None:
    _, found, turned = both()
    for name, x in found.items():
        scale = abs(np.asarray(x)).max()
        np.testing.assert_allclose(turned[name], x[:, :, ::-1], rtol=1e-4, atol=1e-5 * scale)
