"""PFM family: parity with the authors' recipe in torch, switches, shapes, errors."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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
    made = method.init(jax.random.key(0), features)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, variables)

    def loss(params: dict) -> jax.Array:
        return method.loss({**variables, "params": params}, features, {}, jax.random.key(0))[0]

    torch_grads = to_variables(torch, "grad")["params"]
    assert_trees_close(jax.grad(loss)(variables["params"]), torch_grads, 1e-5)

    optimizer = method.optimizer(1)
    step = make_train_step(lambda v, b, r: method.loss(v, b, {}, r), optimizer)
    state, metrics = jax.jit(step)(init_state(variables, optimizer), features, jax.random.key(0))
    np.testing.assert_allclose(metrics["loss"][0], torch["loss"], rtol=1e-5)
    after = to_variables(torch, "after")
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

    scores = method.score(after, features, size=(golden_pfm.IMAGE, golden_pfm.IMAGE))
    np.testing.assert_allclose(scores.map, torch["map"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scores.image, torch["image"], rtol=1e-5)


def random_features(
    rng: jax.Array, levels: dict[str, tuple[int, int, int]], *, batch: int = 2
) -> dict[str, jax.Array]:
    """Positive features: level -> (size, source channels, target channels)."""
    features = {}
    for name, (size, c_s, c_t) in levels.items():
        for role, channels in (("source", c_s), ("target", c_t)):
            rng, key = jax.random.split(rng)
            shape = (batch, size, size, channels)
            features[f"{role}/{name}"] = jax.random.uniform(key, shape)
    return features


def pairs(names: list[str], **changes: object) -> list[PairLevel]:
    made = [PairLevel(f"source/{n}", f"target/{n}", 4, 1e-3) for n in names]
    return [level._replace(**changes) for level in made]


THREE = {"layer1": (8, 6, 8), "layer2": (4, 8, 10), "layer3": (2, 10, 12)}


@pytest.mark.parametrize(
    "names", [["layer3"], ["layer1", "layer3"], ["layer1", "layer2", "layer3"]]
)
def test_map_is_the_mean_of_the_levels_maps(names: list[str], rng: jax.Array) -> None:
    features = random_features(rng, THREE)
    method = pfm(pairs(names))
    variables = method.init(rng, features)
    together = method.score(variables, features, size=(16, 24))
    assert together.map.shape == (2, 16, 24)
    assert together.map.dtype == together.image.dtype == jnp.float32
    alone = [
        pfm(pairs([name])).score(
            {k: {name: tree[name]} for k, tree in variables.items()}, features, size=(16, 24)
        )
        for name in names
    ]
    np.testing.assert_allclose(
        together.map, np.mean([scores.map for scores in alone], axis=0), rtol=1e-5
    )
    np.testing.assert_allclose(together.image, together.map.max(axis=(1, 2)), rtol=0)


def test_initial_weights_of_a_level_do_not_depend_on_the_others(rng: jax.Array) -> None:
    features = random_features(rng, THREE)
    every = pfm(pairs(list(THREE))).init(rng, features)["params"]["layer2"]
    alone = pfm(pairs(["layer2"])).init(rng, features)["params"]["layer2"]
    jax.tree.map(np.testing.assert_array_equal, every, alone)


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


def test_drawn_positions_give_the_loss_of_the_map(rng: jax.Array) -> None:
    features = random_features(rng, THREE)
    method = pfm(pairs(list(THREE)))
    variables = method.init(rng, features)
    flat = {name: x.reshape(-1, x.shape[-1]) for name, x in features.items()}
    of_maps, of_positions = (method.loss(variables, f, {}, rng) for f in (features, flat))
    np.testing.assert_allclose(of_maps[0], of_positions[0], rtol=1e-6)
    total = sum(float(value) for value, _ in of_maps[1].metrics.values())
    np.testing.assert_allclose(of_maps[0], total, rtol=1e-6)


def test_learning_rate_of_a_level_moves_only_that_level(rng: jax.Array) -> None:
    features = random_features(rng, THREE)
    slow, fast = pairs(["layer1", "layer2"])
    method = pfm([slow._replace(learning_rate=0.0), fast], weight_decay=0.0)
    variables = method.init(rng, features)
    optimizer = method.optimizer(1)
    step = jax.jit(make_train_step(lambda v, b, r: method.loss(v, b, {}, r), optimizer))
    after, _ = step(init_state(variables, optimizer), features, rng)
    moved = {
        name: sum(
            float(jnp.abs(a - b).sum())
            for a, b in zip(
                jax.tree.leaves(variables["params"][name]),
                jax.tree.leaves(after.variables["params"][name]),
            )
        )
        for name in ("layer1", "layer2")
    }
    assert moved["layer1"] == 0.0 < moved["layer2"]


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_one_cycle_is_finite_for_any_length(steps: int, rng: jax.Array) -> None:
    features = random_features(rng, {"layer1": (2, 4, 4)})
    method = pfm(pairs(["layer1"]), one_cycle=True, decoupled_weight_decay=True)
    optimizer = method.optimizer(steps)
    state = init_state(method.init(rng, features), optimizer)
    step = jax.jit(make_train_step(lambda v, b, r: method.loss(v, b, {}, r), optimizer))
    for _ in range(steps):
        state, _ = step(state, features, rng)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state.variables))


def test_zero_output_starts_at_the_features_own_energy(rng: jax.Array) -> None:
    features = random_features(rng, THREE)
    method = pfm(pairs(list(THREE)), zero_output=True)
    variables = method.init(rng, features)
    # Nothing is mapped yet, so the error at every position is the target's squared length, 1.
    np.testing.assert_allclose(method.score(variables, features, size=(8, 8)).map, 1.0, rtol=1e-5)
    gradient = jax.grad(lambda p: method.loss({**variables, "params": p}, features, {}, rng)[0])
    assert (
        float(
            jnp.abs(
                gradient(variables["params"])["layer1"]["forward_layer6"]["conv"]["kernel"]
            ).max()
        )
        > 0
    )


def test_features_that_do_not_fit_are_named(rng: jax.Array) -> None:
    features = random_features(rng, {"layer1": (4, 4, 4)})
    with pytest.raises(InputError, match=r"'source/layer9' is not among"):
        pfm(pairs(["layer9"])).init(rng, features)
    features["target/layer1"] = features["target/layer1"][:, :2]
    with pytest.raises(InputError, match="same stride"):
        pfm(pairs(["layer1"])).init(rng, features)
    with pytest.raises(InputError, match="empty"):
        pfm([])
    with pytest.raises(InputError, match="twice"):
        pfm(pairs(["layer1", "layer1"]))
