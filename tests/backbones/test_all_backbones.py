"""What holds for every convolutional network: shapes, folding, and nothing done in vain."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export

from jaxad.backbones import ARCHITECTURES, Variant, fold_batch_norm
from jaxad.backbones.weights import shapes
from ports.parity import apply_by_parts, golden_cases

CNNS = tuple(n for n, arch in ARCHITECTURES.items() if arch.patch == 1 and n != "pdn_small")
"""The others are in test_vit.py and test_patch_description.py."""
EFFICIENTNETS = tuple(name for name in ARCHITECTURES if name.startswith("efficientnet"))
SIZE = 256
WHOLE = ("efficientnet_b4", "efficientnet_lite0")
"""Of the EfficientNets, whose layers differ in width and number only, those tested to the end."""
FOLD_SIZES = {name: case.size for (_, name), case in golden_cases().items()}

# Published parameters of the whole networks with their classifiers, running statistics not counted:
# torchvision, EfficientNet-PyTorch and efficientnet-lite-pytorch. Keras counts 25,583,592 in its
# ResNet-50; 26,560 of them are biases that BatchNorm makes redundant.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet50_keras": 25_583_592 - 26_560,
    "wide_resnet50_2": 68_883_240,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg16_bn": 138_365_992,
    "vgg19_bn": 143_678_248,
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616,
    "efficientnet_b5": 30_389_784,
    "efficientnet_b6": 43_040_704,
    "efficientnet_b7": 66_347_960,
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
    "efficientnet_lite3": 8_197_096,
    "efficientnet_lite4": 13_006_568,
}


@functools.cache
def all_shapes(name, *, folded):
    """Shapes of all variables of a network; the folded ones are what folding makes of the others.

    (Folding needs a tenth of the time that tracing the folded network takes.)
    """
    if folded:
        fold = functools.partial(fold_batch_norm, epsilon=1e-3)
        return jax.eval_shape(fold, all_shapes(name, folded=False))
    return shapes(ARCHITECTURES[name], levels=tuple(ARCHITECTURES[name].levels), folded=False)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def classifier_size(name):
    """Parameters of a published network behind its last level."""
    channels = list(ARCHITECTURES[name].levels.values())[-1].channels
    if name.startswith("vgg"):  # 7 x 7 positions, then three dense layers
        return (49 * 512 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000
    return (channels + 1) * 1000


def redundant_biases(name):
    """Published parameters that we do not have: VGG's biases before BatchNorm."""
    params = flatten_dict(all_shapes(name, folded=False)["params"])
    ours = sum(leaf.size for path, leaf in params.items() if path[-2:] == ("bn", "bias"))
    return ours if name.startswith("vgg") else 0


@pytest.mark.parametrize("name", CNNS)
def test_parameter_count_is_the_published_one(name):
    ours = count(all_shapes(name, folded=False)["params"])
    assert ours + classifier_size(name) + redundant_biases(name) == PARAMETERS[name]


def test_b4_has_the_levels_of_afrad():
    levels = ARCHITECTURES["efficientnet_b4"].levels
    assert [levels[f"stage{i}"] for i in (1, 2, 3, 5, 7)] == [
        (24, 2),
        (32, 4),
        (56, 8),
        (160, 16),
        (448, 32),
    ]


def paddings(name):
    """Every way of padding that weights of this architecture come with."""
    usual = ARCHITECTURES[name].variant.padding
    return (usual, "same", "symmetric") if name in EFFICIENTNETS else (usual,)


@pytest.mark.parametrize(("name", "padding"), [(name, p) for name in CNNS for p in paddings(name)])
def test_levels_are_as_the_table_says_at_every_size(name, padding):
    """Height and width are unknown multiples of 32: 256, 288, 224 and all rectangles of them."""
    arch = ARCHITECTURES[name]
    module = arch.build(levels=tuple(arch.levels), folded=True, variant=Variant(padding=padding))
    if name in EFFICIENTNETS and (name, padding) != (WHOLE[0], arch.variant.padding):
        module = two_blocks_a_stage(module)  # further ones keep shapes
    batch, height, width, _ = export.symbolic_shape("2, 32 * h, 32 * w, 3")
    image = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.float32)
    features, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), image)
    assert features.keys() == arch.levels.keys()
    for level, (channels, stride) in arch.levels.items():
        assert features[level].shape == (2, height // stride, width // stride, channels), level
        assert features[level].dtype == jnp.float32


def two_blocks_a_stage(module):
    """An EfficientNet without the blocks of a stage that do what the second one does."""
    stages = (stage._replace(repeats=min(stage.repeats, 2)) for stage in module.stages)
    return module.clone(stages=tuple(stages))


def random_variables(shapes_, seed):
    """Weights that keep activations of the order of one, with uneven BatchNorm statistics."""
    random = np.random.default_rng(seed)

    def draw(leaf, shape):
        if leaf == "kernel":
            deviation = np.float32((2 / np.prod(shape[:3])) ** 0.5)
            return random.standard_normal(shape, np.float32) * deviation
        low, high = {"var": (0.3, 3.0), "scale": (0.5, 1.2)}.get(leaf, (-0.4, 0.4))
        return random.uniform(low, high, shape).astype(np.float32)

    flat = flatten_dict(shapes_)
    return unflatten_dict({path: draw(path[-1], leaf.shape) for path, leaf in flat.items()})


@pytest.mark.parametrize("name", [name for name in CNNS if name not in ("vgg16", "vgg19")])
def test_folded_features_equal_unfolded(name):
    """Of most EfficientNets two stages of two blocks, which have every kind of layer.

    test_parity.py holds all levels of the folded networks against unfolded ones of frameworks.
    """
    arch = ARCHITECTURES[name]
    levels = tuple(arch.levels)
    some = name in EFFICIENTNETS and name not in WHOLE
    if some:
        levels = levels[:2]
    image = np.random.default_rng(1).standard_normal((1, *FOLD_SIZES[name], 3), np.float32)
    # Without BatchNorm nothing has an epsilon; so it is the program that test_parity.py runs too.
    usual = {False: arch.variant, True: Variant(padding=arch.variant.padding)}
    modules = {f: arch.build(levels=levels, folded=f, variant=usual[f]) for f in usual}
    if some:
        modules = {f: two_blocks_a_stage(module) for f, module in modules.items()}
        found = jax.eval_shape(modules[False].init, jax.random.key(0), image)
    else:
        found = all_shapes(name, folded=False)
    variables = random_variables(found, seed=0)
    folded = fold_batch_norm(variables, arch.variant.epsilon)
    with jax.default_matmul_precision("highest"):
        want = apply_by_parts(modules[False], variables, image)
        got = apply_by_parts(modules[True], folded, image)
    for level in levels:
        largest = np.abs(want[level]).max()
        assert largest > 0.1, level
        assert np.abs(got[level] - want[level]).max() <= 1e-5 * largest, level


def place_of(name, scope):
    """Level that a layer is needed for, counted from 1 (the stem is 0), and its place below it."""
    if scope in ("conv1", "conv_stem"):
        return 0, 0
    if scope == "conv_head":
        return len(ARCHITECTURES[name].levels), 0
    *_, first, second = (0, *map(int, re.findall(r"\d+", scope)))
    if name not in EFFICIENTNETS:
        return first, second
    stages = ARCHITECTURES[name].build(levels=("stage1",), folded=True).stages
    starts = np.cumsum([0, *(stage.repeats for stage in stages)])
    stage = int(np.searchsorted(starts, second, side="right"))
    return stage, second - int(starts[stage - 1])


def operations(name, depth, size):
    """Operations on one `size` x `size` image up to that level, counted from 1, by hand.

    A multiply-add counts 2, and only where it meets a pixel: zeros around an image are free, except
    to a depthwise convolution, which we compute on a padded image. Pools and skips are left out.
    """
    efficientnet, squeeze = name in EFFICIENTNETS, name.startswith("efficientnet_b")
    activation = 4 if squeeze else 2 if efficientnet else 1  # swish, ReLU6, ReLU
    strided = "depthwise_conv" if efficientnet else "conv2"
    if name in ("resnet18", "resnet34", "resnet50_keras"):
        strided = "conv1"
    before = {"depthwise_conv": "expand_conv", "conv2": "conv1", "conv1": None}[strided]
    sizes = [size // (2 if efficientnet else 4)]
    sizes += [size // level.stride for level in ARCHITECTURES[name].levels.values()]

    total = 0
    for (scope, *below, leaf), array in flatten_dict(
        all_shapes(name, folded=True)["params"]
    ).items():
        stage, place = place_of(name, scope)
        if leaf != "kernel" or stage > depth:
            continue
        side, _, inputs, outputs = array.shape
        module = below[0]
        each = 1 + activation  # the bias
        if stage == 0:
            start, end = size, size // 2
        elif name.startswith("vgg"):
            start = end = sizes[stage]
        elif module == "squeeze_excite":
            start = end = 1
        else:
            outer, inner = sizes[stage - 1] if place == 0 else sizes[stage], sizes[stage]
            start = outer if module in (before, strided, "downsample") else inner
            end = outer if module == before else inner
            each = 1 if module == "project_conv" else each
            each += 2 if module == "depthwise_conv" and squeeze else 0  # mean and gate
        taps = end * side if module == "depthwise_conv" else met_taps(side, start, end)
        total += 2 * taps**2 * inputs * outputs + each * end**2 * outputs
    return total


def met_taps(side, start, end):
    """Along one axis, how often a tap of a kernel meets a pixel, padded by half the kernel."""
    positions = np.arange(end)[:, None] * (start // end) + np.arange(side) - side // 2
    return int(((positions >= 0) & (positions < start)).sum())


def some_levels(name):
    """All levels; of B4 and Lite0 the first, a middle and the last, of their kin the third."""
    levels = tuple(ARCHITECTURES[name].levels)
    if name in WHOLE:
        return levels[0], levels[3], levels[-1]
    return levels[2:3] if name in EFFICIENTNETS else levels


@pytest.mark.parametrize("name", CNNS)
def test_nothing_is_built_or_computed_above_the_last_level(name):
    arch = ARCHITECTURES[name]
    order = tuple(arch.levels)
    whole = flatten_dict(all_shapes(name, folded=True))
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    counts = []
    for level in some_levels(name):
        depth = order.index(level) + 1
        variables = all_shapes(name, folded=True)
        if depth < len(order):
            variables = shapes(arch, levels=(level,), folded=True)
            needed = {p: x for p, x in whole.items() if place_of(name, p[1])[0] <= depth}
            assert flatten_dict(variables) == needed
        module = arch.build(levels=(level,), folded=True)
        program = jax.jit(module.apply).lower(variables, image)
        assert program.out_info.keys() == {level}
        counts.append(program.cost_analysis()["flops"])
        assert counts[-1] == pytest.approx(operations(name, depth, SIZE), rel=0.01), level
    assert counts == sorted(set(counts))
