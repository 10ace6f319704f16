"""RD4AD: the reference's numbers, what its switches do, learning, what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxad.backbones.architectures import ARCHITECTURES
from jaxad.config import default_config, load_file
from jaxad.core import Backbone, InputError, Preprocess
from jaxad.methods.rd4ad import cosine, rd4ad
from jaxad.ops.convolve import convolve_up
from jaxad.parallel import data_parallel
from jaxad.recipes.build import recipe_named
from jaxad.training.state import init_state
from jaxad.training.steps import make_train_step
from ports import golden_rd4ad
from ports.golden_pfm import unpack

FILE = np.load(Path(__file__).parents[1] / "golden" / "rd4ad.npz")
NAMES = ("l1", "l2", "l3")
STATISTICS = ("mean", "var")


def golden(variant: str) -> tuple[Any, Any, Any]:
    """Features, variables, and what torch makes of them."""
    features, arrays = golden_rd4ad.inputs(variant)
    tree: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name, value in arrays.items():
        kind = "batch_stats" if name.endswith(STATISTICS) else "params"
        tree[kind][tuple(name.split("/"))] = jnp.asarray(value)
    variables = {kind: unflatten_dict(flat) for kind, flat in tree.items()}
    made = unpack(FILE[f"{variant}/contents"], FILE[f"{variant}/values"])
    return dict(zip(NAMES, map(jnp.asarray, features))), variables, made


def method_of(variant: str = "basic", **changes: Any) -> Any:
    share = golden_rd4ad.VARIANTS[variant]
    return rd4ad(NAMES, **{"blocks": golden_rd4ad.BLOCKS, "inner": share, **changes})


def named(tree: Any) -> dict[str, np.ndarray]:
    return flatten_dict(tree, sep="/")


@pytest.mark.parametrize("variant", golden_rd4ad.VARIANTS)
def test_one_step_and_the_map_equal_the_references(variant: str) -> None:
    features, variables, want = golden(variant)
    method = method_of(variant)
    made = jax.eval_shape(method.init, jax.random.key(0), features)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, variables)

    scores = quick.score(method, variables, features, size=golden_rd4ad.IMAGE)
    np.testing.assert_allclose(scores.map, want["map"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(scores.image, want["map"].max(axis=(1, 2)), rtol=0, atol=1e-5)
    folded = quick.jit(method.fold)(variables)
    assert "batch_stats" not in folded
    again = quick.score(method, folded, features, size=golden_rd4ad.IMAGE)
    np.testing.assert_allclose(again.map, scores.map, rtol=0, atol=1e-5)

    def loss(params: Any) -> Any:
        return method.loss({**variables, "params": params}, features, {}, jax.random.key(0))

    (value, aux), grads = quick.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    np.testing.assert_allclose(value, want["losses"].sum(), rtol=1e-5)
    found = [aux.metrics[f"loss_{name}"][0] for name in NAMES]
    np.testing.assert_allclose(found, want["losses"], rtol=1e-5)
    for name, gradient in named(grads).items():
        np.testing.assert_allclose(gradient, want[f"grad/{name}"], rtol=0, atol=1e-5, err_msg=name)
    for name, statistic in named(aux.updates["batch_stats"]).items():
        np.testing.assert_allclose(statistic, want[f"after/{name}"], rtol=1e-5, atol=1e-5)
    optimizer, params = method.optimizer(1), variables["params"]
    with jax.numpy_dtype_promotion("standard"):
        moves, _ = quick.jit(optimizer.update)(grads, optimizer.init(params), params)
    for name in golden_rd4ad.STORED_AFTER:
        after = named(params)[name] + named(moves)[name]
        np.testing.assert_allclose(after, want[f"after/{name}"], rtol=0, atol=1e-5, err_msg=name)


def test_betas_decide_the_second_step() -> None:
    params, gradients = {"a": np.float32([1, 2])}, [{"a": np.float32([1, -3])}, {"a": np.zeros(2)}]
    gradients = [{"a": np.float32(g["a"])} for g in gradients]
    _, moves = quick.updates_of(method_of(), 2, params, gradients)
    m, v = 0.5 * 0.5 / (1 - 0.5**2), 0.999 * 0.001 / (1 - 0.999**2)
    np.testing.assert_allclose(moves["a"], -5e-3 * np.sign([1, -3]) * m / v**0.5, rtol=1e-4)


def test_up_convolution_is_every_pixel_by_itself() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    kernel = np.random.default_rng(1).normal(size=(2, 2, 5, 3)).astype(np.float32)
    y = np.asarray(convolve_up(jnp.asarray(x), jnp.asarray(kernel)))
    for a in (0, 1):
        for b in (0, 1):
            np.testing.assert_allclose(y[:, a::2, b::2], x @ kernel[a, b], rtol=1e-4, atol=1e-5)


def test_by_position_is_the_mean_of_the_maps() -> None:
    features, variables, _ = golden("basic")
    losses = [
        float(quick.loss(method_of(by_position=flag), variables, features)[0])
        for flag in (False, True)
    ]
    assert abs(losses[0] - losses[1]) > 1e-3
    # Its angle is that of the map, whose BatchNorm then has the batch's statistics.
    a, b = (np.random.default_rng(n).normal(size=(2, 3, 4)).astype(np.float32) for n in (0, 1))
    want = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    np.testing.assert_allclose(cosine(jnp.asarray(a), jnp.asarray(b)), want, rtol=1e-4)
    assert float(cosine(jnp.zeros(3), jnp.ones(3))) == 0


def test_layers_start_as_torchs() -> None:
    features = {name: jnp.zeros((1, 16 >> i, 16 >> i, 32 << i)) for i, name in enumerate(NAMES)}
    made = quick.init(rd4ad(NAMES, blocks=(1, 1, 1, 1)), features)
    params = named(made["params"])
    wide, up = params["fuse1_again/conv/kernel"], params["decoder3_0/conv1/conv/kernel"]
    assert np.std(wide) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    bound = (4 * up.shape[-1]) ** -0.5
    assert 0.99 * bound < np.abs(up).max() <= bound
    assert np.std(up) == pytest.approx(bound / 3**0.5, rel=0.02)
    assert (params["fuse1/bn/scale"] == 1).all()
    assert (params["fuse1/bn/bias"] == 0).all()
    statistics = named(made["batch_stats"])
    assert (statistics["fuse1/bn/mean"] == 0).all()
    assert (statistics["fuse1/bn/var"] == 1).all()


def test_training_learns_what_is_normal() -> None:
    """Directions of features are constant; where one has another, the map rises."""
    method = rd4ad(NAMES, blocks=(1, 1, 1, 1), smoothing=1.0)
    draw = np.random.default_rng(0)
    kinds = [np.abs(draw.normal(size=8 << i)).astype(np.float32) for i in range(3)]

    def normal(count: int) -> dict[str, np.ndarray]:
        return {
            name: draw.uniform(0.5, 1.5, (count, 8 >> i, 8 >> i, 1)).astype(np.float32) * kind
            for i, (name, kind) in enumerate(zip(NAMES, kinds))
        }

    optimizer = method.optimizer(40)
    state = init_state(quick.init(method, normal(1)), optimizer)
    step = quick.jit(make_train_step(lambda v, _, b, r: method.loss(v, b, {}, r), optimizer))
    losses = []
    for _ in range(40):
        state, metrics = step(state, {}, normal(8), jax.random.key(1))
        losses.append(float(metrics["loss"][0]))
    assert losses[-1] < 0.4 * losses[0]
    photos = {name: np.concatenate([x, x]) for name, x in normal(1).items()}
    photos["l1"][1, 5, 2] = kinds[0][::-1]
    scores = quick.score(method, state.variables, photos, size=(32, 32))
    assert scores.image[1] > scores.image[0]
    row, column = divmod(int((scores.map[1] - scores.map[0]).argmax()), 32)
    assert abs(row - 22) < 4
    assert abs(column - 9) < 4


def test_statistics_go_over_all_devices() -> None:
    """Four devices see one image each, and learn what one learns of four."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        draw = np.random.default_rng(0)
        batch = {
            name: np.abs(draw.normal(size=(4, 8 >> i, 8 >> i, 2))) for i, name in enumerate(NAMES)
        }
        found = []
        for backend, devices in (("jit", 1), ("pmap", 4)):
            parallel = data_parallel(backend, devices=jax.local_devices()[:devices])
            method = rd4ad(NAMES, blocks=(1, 1, 1, 1), axis_name=parallel.axis_name)
            state = init_state(quick.filled(method, batch), method.optimizer(1))
            step = make_train_step(
                lambda v, _, b, r, m=method: m.loss(v, b, {}, r),
                method.optimizer(1),
                mean=parallel.mean,
            )
            state, rng = map(parallel.replicate, (state, jax.random.key(0)))
            after, _ = parallel.train_step(step)(state, {}, parallel.shard(batch), rng)
            found.append(jax.device_get(after.variables))
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(found[0]), jax.tree.leaves(found[1]), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6, err_msg=str(path))


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(InputError, match="rebuilds three levels"):
        rd4ad(("a", "b"))
    with pytest.raises(InputError, match="give four numbers"):
        rd4ad(NAMES, blocks=(1, 2))
    fit = (16, 8, 4)
    for sizes in ((12, 6, 3), (16, 8, 5), (8, 8, 8), (32, 8, 4)):
        for grids in (zip(sizes, fit), zip(fit, sizes)):
            features = {name: jnp.zeros((1, *grid, 2)) for name, grid in zip(NAMES, grids)}
            with pytest.raises(InputError, match=r"have grids of .* multiples of 32 pixels"):
                method_of().init(jax.random.key(0), features)
    with pytest.raises(InputError, match="no feature 'l1'"):
        method_of().init(jax.random.key(0), {})


def built(architecture: str, **changes: Any) -> Any:
    """The Student of a configuration, on a network that is not filled."""
    config = default_config("rd4ad")
    config.method.update(changes)
    known = ARCHITECTURES[architecture]
    levels = known.check_levels(changes.get("levels") or None)[:3]
    module = known.build(levels=levels, folded=True)
    network = Backbone(
        architecture, module, {name: known.levels[name] for name in levels}, Preprocess()
    )
    method, _ = recipe_named("rd4ad").method(config, {"backbone": network})
    shapes = {
        f"backbone/{name}": jnp.zeros((1, 16 >> i, 16 >> i, known.levels[name].channels))
        for i, name in enumerate(levels)
    }
    return named(jax.eval_shape(method.init, jax.random.key(0), shapes)["params"])


def test_the_student_is_the_teacher_backwards() -> None:
    levels = ("layer1", "layer2", "layer3")
    wide = built("wide_resnet50_2", levels=levels)
    assert wide["embedding_0/conv1/conv/kernel"].shape == (1, 1, 3072, 1024)
    assert wide["embedding_0/conv3/conv/kernel"].shape == (1, 1, 1024, 2048)
    assert wide["decoder3_0/conv2/conv/kernel"].shape == (2, 2, 512, 512)
    assert wide["decoder1_0/shortcut/conv/kernel"].shape == (2, 2, 512, 256)
    for stage, blocks in {"embedding": 3, "decoder3": 3, "decoder2": 4, "decoder1": 6}.items():
        found = [name for name in wide if name.startswith(f"{stage}_") and "conv1/conv" in name]
        assert len(found) == blocks, stage
    # As torch counts the authors' networks, without their layers of no use.
    assert sum(x.size for x in wide.values()) == PARAMETERS["wide_resnet50_2"]
    assert sum(x.size for x in built("resnet18").values()) == PARAMETERS["resnet18"]
    assert "decoder3_0/conv3/conv/kernel" not in built("resnet34")


PARAMETERS = {"wide_resnet50_2": 83_802_624, "resnet18": 15_383_168}


def test_networks_that_can_not_be_mirrored_are_named() -> None:
    with pytest.raises(InputError, match="efficientnet_lite0, whose features may be negative"):
        built("efficientnet_lite0")
    levels = ("block3", "block4", "block5")
    with pytest.raises(InputError, match="vgg16 is no ResNet"):
        built("vgg16", levels=levels)
    assert "decoder1_0/conv2/conv/kernel" in built("vgg16", levels=levels, blocks=(1, 1, 1, 1))


def test_configurations_are_the_authors_and_one_for_a_cpu() -> None:
    file = Path(__file__).parents[2] / "configs" / "rd4ad.py"
    reference = load_file(str(file))
    assert (reference.train.epochs, reference.train.batch_size) == (200, 16)
    assert reference.method.backbone == "wide_resnet50_2"
    assert load_file(f"{file}:resnet18").method.backbone == "resnet18"
    with pytest.raises(InputError, match="settings are reference, resnet18"):
        load_file(f"{file}:other")
