"""Vision transformers: their tables, positions, tokens and patches. ports/ holds them to torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxad.backbones import ARCHITECTURES, init_backbone
from jaxad.backbones.vit import LEVELS, VisionTransformer, resized
from jaxad.backbones.weights import shapes
from jaxad.core import Backbone, InputError, Level, Preprocess
from jaxad.ops.precision import rounded

# Of the hub's models, with a mask token, and a position for the class; DeiT's with its classifier.
PARAMETERS = {
    "dinov2_vits14": 22_056_576,
    "dinov2_vits14_reg": 22_058_112,
    "dinov2_vitb14": 86_580_480,
    "dinov2_vitb14_reg": 86_583_552,
    "deit_small_patch16": 22_050_664,
}
SMALL = VisionTransformer(
    channels=8,
    heads=2,
    patch=4,
    trained=3,
    registers=2,
    layer_scale=True,
    offset=True,
    levels=("block2", "block12", "norm"),
)


def small_backbone(module=SMALL):
    """A network of random weights that are far from what they are at the start."""
    table = {level: Level(8, 4) for level in module.levels}
    empty = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: random.normal(0, 0.5, s.shape).astype(np.float32), empty)
    return Backbone("small", module, table, Preprocess(), 4), variables


def photos(height, width, count=2):
    return np.random.default_rng(1).integers(0, 256, (count, height, width, 3), np.uint8)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_ones(name):
    arch = ARCHITECTURES[name]
    channels = arch.levels["norm"].channels
    found = shapes(arch, levels=("norm",), folded=True)
    elsewhere = 2 * channels  # mask token, position of the class token
    if name.startswith("deit"):
        elsewhere = channels + (channels + 1) * 1000
    ours = sum(leaf.size for leaf in jax.tree.leaves(found))
    assert ours + elsewhere == PARAMETERS[name]


def test_all_vision_transformers_are_tested():
    assert {n for n, arch in ARCHITECTURES.items() if arch.patch > 1} == set(PARAMETERS)
    assert ARCHITECTURES["dinov2_vits14"].default_levels == ("norm",)


@pytest.mark.parametrize("name", ["dinov2_vitb14_reg", "deit_small_patch16"])
def test_levels_are_as_the_table_says(name):
    arch = ARCHITECTURES[name]
    module = arch.build(levels=tuple(arch.levels), folded=True)
    image = jax.ShapeDtypeStruct((2, 3 * arch.patch, 5 * arch.patch, 3), jnp.float32)
    features, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), image)
    assert tuple(arch.levels) == LEVELS
    assert features.keys() == set(LEVELS)
    for level, (channels, stride) in arch.levels.items():
        assert stride == arch.patch
        assert features[level].shape == (2, 3, 5, channels)


def test_nothing_is_built_above_the_last_level():
    arch = ARCHITECTURES["dinov2_vits14_reg"]
    built = shapes(arch, levels=("block2",), folded=True)["params"]
    assert set(built) == {
        "patch_embed", "position", "class_token", "registers", "block1", "block2"
    }  # fmt: skip
    assert "norm" not in shapes(arch, levels=("block12",), folded=True)["params"]


def test_norm_is_the_last_block_normalised():
    backbone, variables = small_backbone()
    found = backbone.features(variables, photos(8, 12))
    x = np.asarray(found["block12"], np.float64)
    norm = variables["params"]["norm"]
    want = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    want = want * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(found["norm"], want, rtol=1e-4, atol=1e-5)
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(
        SMALL.levels, (2, 2, 3, 8)
    )


@pytest.mark.parametrize("leaf", ["class_token", "registers", "position"])
def test_tokens_without_a_patch_are_attended_to(leaf):
    backbone, variables = small_backbone()
    # The other sign: LayerNorm takes away what all channels have in common, and any factor.
    changed = {"params": {**variables["params"], leaf: -variables["params"][leaf]}}
    one, other = (backbone.features(v, photos(8, 12))["block2"] for v in (variables, changed))
    assert np.abs(one - other).max() > 1e-3


def test_without_positions_patches_may_change_places():
    backbone, variables = small_backbone()
    params = variables["params"]
    variables = {"params": {**params, "position": np.zeros_like(params["position"])}}
    image = photos(8, 12)
    moved = np.concatenate([image[:, :, 4:], image[:, :, :4]], axis=2)
    one, other = (backbone.features(variables, x)["block12"] for x in (image, moved))
    np.testing.assert_allclose(np.roll(one, -1, axis=2), other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("offset", [True, False])
def test_positions_are_as_trained_at_the_trained_size_alone(offset):
    table = jax.random.normal(jax.random.key(0), (1, 9, 8))
    assert resized(table, trained=3, grid=(3, 3), offset=offset) is table
    wide = resized(table, trained=3, grid=(3, 4), offset=offset)
    assert wide.shape == (1, 12, 8)
    # The publisher's factor moves an axis of the trained length too, once the other is resized.
    tall = resized(table, trained=3, grid=(4, 3), offset=offset).reshape(4, 3, 8)
    plain = resized(table, trained=3, grid=(4, 3), offset=False).reshape(4, 3, 8)
    assert (np.abs(tall - plain).max() > 1e-2) == offset


def test_a_table_of_positions_is_resized_along_each_axis():
    """One that varies from row to row only does so afterwards."""
    rows = jnp.arange(3.0).reshape(3, 1, 1)
    table = jnp.broadcast_to(rows, (3, 3, 2)).reshape(1, 9, 2)
    found = np.asarray(resized(table, trained=3, grid=(5, 7), offset=False)).reshape(5, 7, 2)
    assert (np.ptp(found, axis=1) < 1e-6).all()
    assert (np.diff(found[:, 0, 0]) > 0.1).all()


@pytest.mark.parametrize(
    ("height", "width", "said"),
    [
        (448, 450, "448 x 450 pixels .* 14 x 14: take 448 or 462 for 450 .data.image_size"),
        (256, 256, "take 252 or 266 for 256 .data"),
        (13, 15, "take 14 for 13, 14 or 28 for 15 .data"),
    ],
)
def test_images_that_do_not_divide_into_patches_are_refused(height, width, said):
    arch = ARCHITECTURES["dinov2_vits14"]
    module = arch.build(levels=("block1",), folded=True)
    backbone = Backbone(arch.name, module, {"block1": arch.levels["block1"]}, arch.preprocess, 14)
    variables = shapes(arch, levels=("block1",), folded=True)
    assert backbone.least_size(variables) == 14
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8)
    with pytest.raises(InputError, match=said):
        jax.eval_shape(backbone.features, variables, image)
    with pytest.raises(InputError, match="no patches of 4"):
        SMALL.init(jax.random.key(0), jnp.zeros((1, 8, 9, 3)))


def test_random_weights_are_drawn_and_what_scales_is_one():
    backbone, variables = init_backbone("dinov2_vits14_reg", jax.random.key(0), levels=("block1",))
    assert (backbone.patch, backbone.preprocess.resize) == (14, "bicubic")
    flat = flatten_dict(variables["params"], sep="/")
    for path in ("block1/scale1", "block1/scale2", "block1/norm1/scale", "block1/norm2/scale"):
        assert (flat[path] == 1).all(), path
    assert (flat["block1/norm1/bias"] == 0).all()
    for path in ("block1/qkv/kernel", "position", "class_token", "registers"):
        assert float(flat[path].std()) == pytest.approx(0.02, rel=0.1), path
    features = backbone.features(variables, photos(28, 42, count=1))["block1"]
    assert np.isfinite(features).all()
    assert np.std(features) > 0.01


def test_in_half_precision_norms_stay_float32():
    backbone, variables = small_backbone()
    half = rounded(variables, "bfloat16")
    kinds = {path: x.dtype for path, x in flatten_dict(half["params"], sep="/").items()}
    wide = {path for path, kind in kinds.items() if kind == jnp.float32}
    assert wide == {path for path in kinds if "norm" in path}
    found = backbone.features(half, photos(8, 12))["norm"]
    want = backbone.features(variables, photos(8, 12))["norm"]
    assert found.dtype == jnp.float32
    assert 0 < np.abs(found - want).max() < 0.1 * np.abs(want).max()
