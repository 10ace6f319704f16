"""PFM family: parity with the authors' recipe in torch, switches, shapes, errors."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
import scipy.ndimage
from flax import traverse_util

from jaxad.core import InputError
from jaxad.methods.pfm import PairLevel, pfm
from jaxad.training.state import init_state
from jaxad.training.steps import make_train_step
from ports import golden_pfm

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "pfm.npz")
LEVEL = PairLevel("source/layer1", "target/layer1", latent=golden_pfm.C, learning_rate=3e-3)


def golden(variant: str) -> dict[str, np.ndarray]:
    return golden_pfm.unpack(GOLDEN[f"{variant}/contents"], GOLDEN[f"{variant}/values"])


def to_variables(state: dict[str, np.ndarray], part: str) -> dict:
    """Torch's `part/layer.0.weight` (conv), `part/layer.1.*` (BatchNorm) as our tree."""
    names = {
        "0.weight": ("params", "conv", "kernel"),
        "0.bias": ("params", "conv", "bias"),
        "1.weight": ("params", "bn", "scale"),
        "1.bias": ("params", "bn", "bias"),
        "1.running_mean": ("batch_stats", "bn", "mean"),
        "1.running_var": ("batch_stats", "bn", "var"),
    }
    flat = {}
    for key, value in state.items():
        if not key.startswith(f"{part}/"):
            continue
        layer, rest = key.removeprefix(f"{part}/").split(".", 1)
        collection, module, leaf = names[rest]
        value = value[:, :, 0, 0].T if rest == "0.weight" else value
        flat[collection, "layer1", layer, module, leaf] = jnp.asarray(value)
    return traverse_util.unflatten_dict(flat)


def assert_trees_close(actual: dict, expected: dict, tolerance: float) -> None:
    actual, expected = (traverse_util.flatten_dict(t, sep="/") for t in (actual, expected))
    assert actual.keys() == expected.keys()
    # A leaf of pure rounding noise (a bias before BatchNorm has no gradient) is judged by the rest.
    floor = 0.1 * max(float(np.max(np.abs(value))) for value in expected.values())
    for name, value in expected.items():
        scale = max(float(np.max(np.abs(value))), floor)
        np.testing.assert_allclose(actual[name], value, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("variant", golden_pfm.VARIANTS)
def test_one_step_equals_the_reference_recipe(variant: str) -> None:
    method = pfm([LEVEL], **golden_pfm.VARIANTS[variant])
    torch = golden(variant)
    features = {
        "source/layer1": jnp.asarray(GOLDEN["F_S"]),
        "target/layer1": jnp.asarray(GOLDEN["F_T"]),
    }
    variables = to_variables(torch, "before")
    made = jax.eval_shape(method.init, jax.random.key(0), features)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, variables)
    after = to_variables(torch, "after")
    size = (golden_pfm.IMAGE, golden_pfm.IMAGE)
    optimizer = method.optimizer(1)
    step = make_train_step(lambda v, _, b, r: method.loss(v, b, {}, r), optimizer)

    @quick.jit
    def everything(variables: dict, after: dict, features: dict, rng: jax.Array) -> tuple:
        def loss(params: dict) -> jax.Array:
            return method.loss({**variables, "params": params}, features, {}, rng)[0]

        stepped = step(init_state(variables, optimizer), {}, features, rng)
        return (
            jax.grad(loss)(variables["params"]),
            stepped,
            method.score(after, features, size=size),
        )

    grads, (state, metrics), scores = everything(variables, after, features, jax.random.key(0))
    torch_grads = to_variables(torch, "grad")["params"]
    assert_trees_close(grads, torch_grads, 1e-5)
    np.testing.assert_allclose(metrics["loss"][0], torch["loss"], rtol=1e-5)
    assert_trees_close(state.variables["batch_stats"], after["batch_stats"], 1e-5)
    # Adam's first step is lr·sign(g). Where g is rounding noise (biases before a BatchNorm, whose
    # true gradient is 0) the two may step in opposite directions, and neither is wrong.
    for path, gradient in traverse_util.flatten_dict(torch_grads).items():
        sure = np.abs(gradient) > 1e-6
        got, wanted = (
            traverse_util.flatten_dict(t["params"])[path] for t in (state.variables, after)
        )
        np.testing.assert_allclose(
            np.asarray(got)[sure], np.asarray(wanted)[sure], atol=1e-5, err_msg=str(path)
        )

    np.testing.assert_allclose(scores.map, torch["map"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scores.image, torch["image"], rtol=1e-5)


def random_features(
    levels: dict[str, tuple[int, int, int]], *, batch: int = 2
) -> dict[str, jax.Array]:
    """Positive features: level -> (size, source channels, target channels)."""
    draw = np.random.default_rng(0)
    return {
        f"{role}/{name}": jnp.asarray(draw.uniform(size=(batch, size, size, c)), jnp.float32)
        for name, (size, *channels) in levels.items()
        for role, c in zip(("source", "target"), channels)
    }


def pairs(names: list[str], **changes: object) -> list[PairLevel]:
    made = [PairLevel(f"source/{n}", f"target/{n}", 4, 1e-3) for n in names]
    return [level._replace(**changes) for level in made]


THREE = {"layer1": (8, 6, 8), "layer2": (4, 8, 10), "layer3": (2, 10, 12)}
SIZE = (16, 24)


@pytest.fixture(scope="module")
def features() -> dict[str, jax.Array]:
    return random_features(THREE)


@pytest.fixture(scope="module")
def variables(features: dict[str, jax.Array]) -> dict:
    return quick.filled(pfm(pairs(list(THREE))), features)


def of_level(variables: dict, name: str) -> dict:
    return {collection: {name: tree[name]} for collection, tree in variables.items()}


@pytest.fixture(scope="module")
def maps(features: dict, variables: dict) -> dict[str, np.ndarray]:
    """Every level's own map."""

    @quick.jit
    def alone(variables: dict, features: dict) -> dict:
        return {
            name: pfm(pairs([name])).score(of_level(variables, name), features, size=SIZE)
            for name in THREE
        }

    found = {}
    for name, scores in alone(variables, features).items():
        assert scores.map.shape == (2, *SIZE)
        assert scores.map.dtype == scores.image.dtype == jnp.float32
        np.testing.assert_allclose(scores.image, scores.map.max(axis=(1, 2)), rtol=0)
        found[name] = np.asarray(scores.map)
    return found


@pytest.mark.parametrize("names", [["layer1", "layer3"], list(THREE)])
def test_map_is_the_mean_of_the_levels_maps(
    names: list[str], features: dict, variables: dict, maps: dict
) -> None:
    together = quick.score(pfm(pairs(names)), variables, features, size=SIZE)
    want = np.mean([maps[name] for name in names], axis=0)
    np.testing.assert_allclose(together.map, want, rtol=1e-5)
    np.testing.assert_allclose(together.image, together.map.max(axis=(1, 2)), rtol=0)


def test_map_is_smoothed_and_image_score_is_of_the_highest_share(
    features: dict, variables: dict, maps: dict
) -> None:
    method = pfm(pairs(list(THREE)), smoothing=1.5, top_share=0.1)
    found = quick.score(method, variables, features, size=SIZE)
    plain = np.mean(list(maps.values()), axis=0)
    want = np.stack([scipy.ndimage.gaussian_filter(x, 1.5) for x in plain])
    assert np.abs(want - plain).max() > 1e-3
    np.testing.assert_allclose(found.map, want, rtol=1e-4)
    highest = np.sort(want.reshape(2, -1), axis=1)[:, -round(0.1 * want[0].size) :]
    np.testing.assert_allclose(found.image, highest.mean(axis=1), rtol=1e-4)


def test_folded_variables_score_alike(features: dict, variables: dict) -> None:
    method = pfm(pairs(["layer2"]))
    own = of_level(variables, "layer2")
    folded = quick.jit(method.fold)(own)
    assert "batch_stats" not in folded
    want, got = (quick.score(method, v, features, size=SIZE) for v in (own, folded))
    np.testing.assert_allclose(got.map, want.map, rtol=1e-4)


def test_weights_of_a_level_depend_on_its_name_alone() -> None:
    found = random_features({"layer1": (1, 2, 2), "layer2": (1, 2, 2)})
    one_way = {"bidirectional": False}
    every = quick.init(pfm(pairs(["layer1", "layer2"]), **one_way), found)["params"]
    alone = quick.init(pfm(pairs(["layer2"]), **one_way), found)["params"]
    jax.tree.map(np.testing.assert_array_equal, every["layer2"], alone["layer2"])
    kernels = (every[name]["forward_layer1"]["conv"]["kernel"] for name in ("layer1", "layer2"))
    assert np.abs(np.subtract(*kernels)).max() > 0


def test_layers_start_as_torchs() -> None:
    wide = {f"{role}/layer1": jnp.zeros((1, 2, 2, 64)) for role in ("source", "target")}
    made = quick.init(pfm(pairs(["layer1"], latent=50), bidirectional=False), wide)
    layer = made["params"]["layer1"]["forward_layer2"]
    bound = (64 // 2 + 50) ** -0.5
    for name, leaf in layer["conv"].items():
        assert 0.9 * bound < np.abs(leaf).max() <= bound, name
        np.testing.assert_allclose(np.std(leaf), bound / 3**0.5, rtol=0.12, err_msg=name)
    assert np.unique(layer["conv"]["kernel"]).size > 8000
    stats = made["batch_stats"]["layer1"]["forward_layer2"]["bn"]
    for leaf, value in ((layer["bn"]["scale"], 1), (layer["bn"]["bias"], 0)):
        np.testing.assert_array_equal(leaf, value)
    np.testing.assert_array_equal(stats["mean"], 0)
    np.testing.assert_array_equal(stats["var"], 1)


def test_parameter_count_is_the_published_one(rng: jax.Array) -> None:
    # facts: ResNet-34 to ResNet-50, c = 200, 400, 900, both directions.
    published = {"layer1": 894_312, "layer2": 3_559_888, "layer3": 17_100_532}
    sizes = {"layer1": (1, 64, 256), "layer2": (1, 128, 512), "layer3": (1, 256, 1024)}
    latents = {"layer1": 200, "layer2": 400, "layer3": 900}
    levels = [level._replace(latent=latents[level.name]) for level in pairs(list(sizes))]
    features = {
        f"{role}/{name}": jax.ShapeDtypeStruct((1, 1, 1, size[1 + i]), jnp.float32)
        for name, size in sizes.items()
        for i, role in enumerate(("source", "target"))
    }
    params = jax.eval_shape(pfm(levels).init, rng, features)["params"]
    counts = {k: sum(leaf.size for leaf in jax.tree.leaves(v)) for k, v in params.items()}
    assert counts == published


def test_drawn_positions_give_the_loss_of_the_map(features: dict, variables: dict) -> None:
    method = pfm(pairs(["layer1", "layer3"]))

    @quick.jit
    def both(variables: dict, features: dict) -> tuple:
        flat = {name: x.reshape(-1, x.shape[-1]) for name, x in features.items()}
        return [method.loss(variables, f, {}, jax.random.key(0)) for f in (features, flat)]

    of_maps, of_positions = both(variables, features)
    np.testing.assert_allclose(of_maps[0], of_positions[0], rtol=1e-6)
    total = sum(float(value) for value, _ in of_maps[1].metrics.values())
    np.testing.assert_allclose(of_maps[0], total, rtol=1e-6)


PARAMS = {"layer1": np.float32(1e3) * np.asarray([1, -2], np.float32), "layer2": np.ones(3)}


def gradients(steps: int) -> list[dict[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    return [{n: draw.normal(size=p.shape).astype(np.float32) for n, p in PARAMS.items()}] * steps


@pytest.mark.parametrize("decoupled", [False, True])
def test_optimizer_is_adam_at_each_levels_rate_with_the_printed_decay(decoupled: bool) -> None:
    one, two = pairs(["layer1", "layer2"])
    levels = [one._replace(learning_rate=3e-3), two._replace(learning_rate=0.0)]
    method = pfm(levels, decoupled_weight_decay=decoupled, one_cycle=decoupled)
    params = jax.tree.map(np.float32, PARAMS)
    found = quick.updates_of(method, 10, params, gradients(10))
    decay = {"decay": 1e-5} if decoupled else {"l2": 1e-5}
    rate = quick.one_cycle(10, 3e-3) if decoupled else (lambda _: 3e-3)
    own = [g["layer1"] for g in gradients(10)]
    want = quick.adam_by_hand(rate, params["layer1"], own, **decay)
    for t, (a, b) in enumerate(zip(found, want)):
        np.testing.assert_allclose(a["layer1"], b, rtol=2e-4, err_msg=f"step {t}")
        np.testing.assert_array_equal(a["layer2"], 0)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_one_cycle_is_finite_for_any_length(steps: int) -> None:
    method = pfm(pairs(list(PARAMS)), one_cycle=True, decoupled_weight_decay=True)
    params = jax.tree.map(np.float32, PARAMS)
    for moves in quick.updates_of(method, steps, params, gradients(steps)):
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(moves))


def test_zero_output_starts_at_the_features_own_energy(features: dict) -> None:
    method = pfm(pairs(["layer2"]), zero_output=True, bidirectional=False)
    variables = quick.init(method, features)

    @quick.jit
    def both(variables: dict) -> tuple:
        gradient = jax.grad(
            lambda p: method.loss({**variables, "params": p}, features, {}, jax.random.key(0))[0]
        )(variables["params"])
        return method.score(variables, features, size=(8, 8)).map, gradient

    # Nothing is mapped yet, so the error at every position is the target's squared length, 1.
    map_, gradient = both(variables)
    np.testing.assert_allclose(map_, 1.0, rtol=1e-5)
    assert float(jnp.abs(gradient["layer2"]["forward_layer6"]["conv"]["kernel"]).max()) > 0


def test_a_zero_output_has_no_direction_to_normalise() -> None:
    with pytest.raises(InputError, match=r"zero_output .* method\.normalise_output .* to false"):
        pfm(pairs(["layer1"]), zero_output=True, normalise_output=True)


def test_features_that_do_not_fit_are_named(rng: jax.Array) -> None:
    features = random_features({"layer1": (4, 4, 4)})
    with pytest.raises(InputError, match=r"'source/layer9' is not among"):
        pfm(pairs(["layer9"])).init(rng, features)
    features["target/layer1"] = features["target/layer1"][:, :2]
    with pytest.raises(InputError, match="same stride"):
        pfm(pairs(["layer1"])).init(rng, features)
    with pytest.raises(InputError, match="empty"):
        pfm([])
    with pytest.raises(InputError, match="twice"):
        pfm(pairs(["layer1", "layer1"]))
