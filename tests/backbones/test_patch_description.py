"""EfficientAD's patch description network: what a position sees, and both namings of its weights.

Its values are compared with torch's in tests/methods/test_efficientad.py.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxad.backbones import ARCHITECTURES, init_backbone
from jaxad.backbones.patch_description import (
    PATCHES,
    FrozenPatchDescription,
    PatchDescription,
)
from jaxad.core import InputError, Preprocess
from ports import namings
from ports.efficientad_names import convert

NUMBERED = {"conv1": "0", "conv2": "3", "conv3": "6", "conv4": "8"}


def state(names: dict[str, str]) -> dict[str, np.ndarray]:
    """A state dict as torch has it, kernels OIHW."""
    random, found, before = np.random.default_rng(0), {}, 3
    for name, outputs, side in (
        *(("conv1", 128, 4), ("conv2", 256, 4), ("conv3", 256, 3), ("conv4", 384, 4)),
    ):
        shape = (outputs, before, side, side)
        found[f"{names[name]}.weight"] = random.normal(size=shape).astype(np.float32)
        found[f"{names[name]}.bias"] = random.normal(size=outputs).astype(np.float32)
        before = outputs
    return found


def test_a_patch_is_described_by_33_pixels_a_side_at_stride_4() -> None:
    net = PatchDescription(1, 2)
    for side, padded, grid in ((256, False, 56), (256, True, 64), (64, False, 8)):
        x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        run = functools.partial(net.init_with_output, padded=padded)
        assert jax.eval_shape(run, jax.random.key(0), x)[0].shape == (1, grid, grid, 1)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    params = jax.tree.map(lambda x: jnp.ones(x.shape), shapes)  # nothing is cut by ReLU
    seen = jax.grad(lambda x: net.apply(params, x)[0, 2, 3, 0])(jnp.ones((1, 64, 64, 3)))
    rows, columns = (np.flatnonzero(np.abs(seen[0, ..., 0]).sum(axis=a)) for a in (1, 0))
    assert (rows[0], rows[-1]) == (8, 40)
    assert (columns[0], columns[-1]) == (12, 44)


def test_as_a_feature_extractor_it_has_a_quarter_of_the_photos_grid() -> None:
    small = FrozenPatchDescription(5, 2)
    x = jax.random.normal(jax.random.key(0), (2, 37, 64, 3))
    shapes = jax.eval_shape(small.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda s: jnp.full(s.shape, 0.1), shapes)
    (level,) = small.apply(variables, x).items()
    assert level[0] == PATCHES
    want = PatchDescription(5, 2).apply(variables, x, padded=True)
    np.testing.assert_array_equal(level[1], want)

    arch = ARCHITECTURES["pdn_small"]
    module = arch.build(levels=arch.default_levels, folded=True)
    image = jax.ShapeDtypeStruct((*export.symbolic_shape("b, 4 * h, 4 * w"), 3), jnp.float32)
    batch, height, width, _ = image.shape
    found, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), image)
    (channels, stride), shape = arch.levels[PATCHES], found[PATCHES].shape
    assert shape == (batch, height // stride, width // stride, channels)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 2_694_144


def test_both_namings_are_told_and_read_alike() -> None:
    plain = {name: name for name in NUMBERED}
    both = [state(names) for names in (plain, NUMBERED)]
    assert [namings.choose("pdn_small", own) for own in both] == ["efficientad"] * 2
    found = [convert("pdn_small", own) for own in both]
    assert found[0].levels == (PATCHES,)
    assert found[0].preprocess == Preprocess()
    backbone, drawn = init_backbone("pdn_small", jax.random.key(0))
    assert list(backbone.levels) == [PATCHES]
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(np.shape, found[0].variables)
    for one, other in zip(*(jax.tree.leaves(each.variables) for each in found), strict=True):
        np.testing.assert_array_equal(one, other)
    kernel = found[0].variables["params"]["conv3"]["kernel"]
    np.testing.assert_array_equal(kernel, both[0]["conv3.weight"].transpose(2, 3, 1, 0))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"conv9.bias": np.ones(3)}, "1 unknown (conv9.bias)"),
        ({"conv4.bias": np.ones(768)}, "conv4.bias is (768,), not (384,)"),
        ({"conv2.bias": np.full(256, np.nan, np.float32)}, "conv2.bias"),
    ],
)
def test_a_file_that_is_another_is_refused(change: dict[str, Any], told: str) -> None:
    names = {name: name for name in NUMBERED}
    with pytest.raises(InputError) as caught:
        convert("pdn_small", {**state(names), **change})
    assert told in str(caught.value)
    with pytest.raises(InputError, match="EfficientAD's names cover pdn_small; not 'resnet18'"):
        convert("resnet18", {})
