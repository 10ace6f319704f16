"""Experts side by side, calibration by Eq. 5 and 6, and the whole."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from sklearn.metrics import roc_auc_score

from jaxad.core import InputError
from jaxad.methods.adapted_moe import adapted_moe, experts, grouped
from jaxad.methods.adaption import AS_PRINTED, Adaption
from jaxad.methods.routing import Router, routing
from jaxad.methods.simplenet import Expert, simplenet
from jaxad.training.state import init_state
from jaxad.training.steps import make_train_step

C, GRID = 16, 6


def build(count: int, **options: Any) -> Any:
    """The whole method, its parts by name, for features "x" of `C` channels."""
    options = {"smoothing": 0.0, "normalise": False, "adaption": AS_PRINTED, **options}
    expert = Expert(32)
    both = {name: options[name] for name in ("normalise", "adaption", "smoothing")}
    both["shared"] = options.get("shared", False)
    rates = {"learning_rates": (1e-3, 2e-3), "noise": 0.3}
    parts = {"experts": experts("x", expert, count=count, statistics=("l", "s"), **both, **rates)}
    router = Router(16, count, True) if count > 1 else None
    if router is not None:
        parts["router"] = routing("x", router, learning_rate=1e-2)
    return adapted_moe("x", parts, expert, router, count=count, **options), parts


def train(method: Any, images: np.ndarray, steps: int) -> Any:
    """Observe, and train on, `(n, N, h, w, C)` images of n subclasses, batches of 8 each."""
    n, draw = len(images), np.random.default_rng(0)
    optimizer = method.optimizer(steps)
    variables = quick.init(method, {"x": jnp.asarray(images[0, :1])})
    every = [({"x": own}, {"subclass": np.full(len(own), k)}) for k, own in enumerate(images)]
    state = init_state(method.observe(variables, every), optimizer)

    def loss(variables, frozen, batch, rng):
        return method.loss(variables, {"x": batch["x"]}, {"subclass": batch["subclass"]}, rng)

    step = quick.jit(make_train_step(loss, optimizer))
    label = np.tile(np.arange(n, dtype=np.int32), 8)
    for _ in range(steps):
        at = draw.integers(0, images.shape[1], 8)
        x = np.swapaxes(images[:, at], 0, 1).reshape(8 * n, *images.shape[2:])
        state, _ = step(state, {}, {"x": x, "subclass": label}, jax.random.key(1))
    return state.variables


def expert_of(variables: Any, k: int) -> Any:
    """The variables of one expert, as a SimpleNet has them."""
    names = ("params", "batch_stats")
    return {n: jax.tree.map(lambda leaf: leaf[k], variables[n]["experts"]) for n in names}


def normal(rng: np.random.Generator, count: int, centre: np.ndarray) -> np.ndarray:
    """Images whose patches vary along four directions around a centre."""
    directions = np.random.default_rng(9).normal(size=(4, C))
    shape = (count, GRID, GRID, 4)
    x = centre + rng.normal(size=shape) @ directions + 0.1 * rng.normal(size=(*shape[:3], C))
    return x.astype(np.float32)


def with_defect(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """Move one patch of every image off those directions."""
    x = x.copy()
    x[np.arange(len(x)), rng.integers(0, GRID, len(x)), rng.integers(0, GRID, len(x))] += (
        1.5 * rng.normal(size=(len(x), C))
    ).astype(np.float32)
    return x


@pytest.fixture(scope="module")
def shifted() -> dict[str, Any]:
    """One expert for what was seen, and test images under a scale and offset that were not."""
    rng = np.random.default_rng(1)
    centre = rng.normal(size=C)
    method, _ = build(1)
    variables = train(method, normal(rng, 40, centre)[None], 150)
    good = normal(rng, 60, centre)
    x = np.concatenate([good, with_defect(rng, normal(rng, 60, centre))])
    scale, offset = rng.uniform(0.4, 2.5, C), rng.normal(size=C) * 3
    moved = (x * scale + offset).astype(np.float32)
    truth = np.repeat([0, 1], 60)

    def auroc(images: np.ndarray, *, adaption: bool) -> float:
        chosen, _ = build(1, adaption=AS_PRINTED if adaption else None)
        found = quick.score(chosen, variables, {"x": images}, size=(GRID, GRID))
        return float(roc_auc_score(truth, found.image))

    return {"plain": x, "moved": moved, "auroc": auroc}


def test_adaption_restores_what_an_unknown_scale_and_offset_took(shifted):
    auroc = shifted["auroc"]
    unshifted = auroc(shifted["plain"], adaption=False)
    assert unshifted > 0.9
    taken = auroc(shifted["moved"], adaption=False)
    assert taken < unshifted - 0.15
    restored = auroc(shifted["moved"], adaption=True)
    assert restored > taken + 0.1
    # All of it is back: an image and its moved copy are one to the experts.
    assert restored == pytest.approx(auroc(shifted["plain"], adaption=True), abs=1e-3)


def test_every_expert_learns_as_a_simplenet_of_its_own_subclass_does():
    """Loss, gradients and statistics of stacked experts against SimpleNet, one by one."""
    expert = Expert(32)
    stacked = experts("x", expert, count=3, normalise=False, noise=0.0)
    alone = simplenet("x", hidden=32, noise=0.0)
    x = jax.random.normal(jax.random.key(0), (12, C))
    variables = quick.init(stacked, {"x": x})

    def loss_of(method, params, rest, x):
        return method.loss({"params": params, **rest}, {"x": x}, {}, jax.random.key(2))

    @quick.jit
    def one_by_one(variables, x):
        rest = {"batch_stats": variables["batch_stats"]}
        found = [
            jax.value_and_grad(lambda p: loss_of(stacked, p, rest, x), has_aux=True)(
                variables["params"]
            )
        ]
        for k in range(3):
            own = expert_of(variables, k)
            found.append(
                jax.value_and_grad(
                    lambda p, own=own, k=k: loss_of(
                        alone, p, {"batch_stats": own["batch_stats"]}, x[k::3]
                    ),
                    has_aux=True,
                )(own["params"])
            )
        return found

    ((value, aux), grads), *singles = one_by_one(variables, x)
    total = 0.0
    for k, ((single, single_aux), single_grads) in enumerate(singles):
        total += single
        for mine, theirs in (
            (grads["experts"], single_grads),
            (aux.updates["batch_stats"]["experts"], single_aux.updates["batch_stats"]),
        ):
            for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs)):
                np.testing.assert_allclose(a[k], b, atol=2e-6)
    np.testing.assert_allclose(value, total, rtol=1e-5)


@pytest.fixture(scope="module")
def two() -> dict[str, Any]:
    """Two subclasses far apart, learnt by two experts and by one."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(2, C)) * 3
    images = np.stack([normal(rng, 30, centre) for centre in centres])
    method, _ = build(2, adaption=None)
    return {"method": method, "variables": train(method, images, 80), "centres": centres}


def test_images_are_judged_by_their_own_expert(two):
    rng = np.random.default_rng(4)
    x = np.concatenate([normal(rng, 4, centre) for centre in two["centres"]])
    variables, size = two["variables"], (GRID, GRID)
    whole = quick.score(two["method"], variables, {"x": x}, size=size)
    for k in range(2):
        own = expert_of(variables, k)
        part = slice(4 * k, 4 * k + 4)
        alone = simplenet("x", hidden=32, smoothing=0.0)
        expected = quick.score(alone, own, {"x": x[part]}, size=size)
        np.testing.assert_allclose(whole.map[part], expected.map, atol=1e-5)
        np.testing.assert_allclose(whole.image[part], expected.image, atol=1e-5)


def test_what_an_image_is_taken_for_is_the_expert_that_judges_it(two):
    rng = np.random.default_rng(7)
    x = np.concatenate([normal(rng, 4, centre) for centre in two["centres"]])
    method, variables, size = two["method"], two["variables"], (GRID, GRID)
    taken = np.asarray(method.route(variables, {"x": x}))
    assert taken.tolist() == [0] * 4 + [1] * 4
    params = variables["params"]
    moved = jax.tree.map(lambda leaf: leaf.at[1].mul(1.5), params["experts"])
    other = {**variables, "params": {**params, "experts": moved}}
    before, after = (quick.score(method, v, {"x": x}, size=size).image for v in (variables, other))
    np.testing.assert_array_equal(before != after, taken == 1)
    assert build(1)[0].route is None


def test_experts_are_mixed_by_the_weights_of_the_router(two):
    rng = np.random.default_rng(5)
    x = normal(rng, 3, two["centres"][0])
    size = (GRID, GRID)
    both, parts = build(2, adaption=None, k=2, temperature=1e6)  # equal weights
    found = quick.score(both, two["variables"], {"x": x}, size=size)
    mean = quick.score(parts["experts"], two["variables"], {"x": x}, size=size)
    np.testing.assert_allclose(found.map, mean.map, atol=1e-4)
    sharp, _ = build(2, adaption=None, k=2, temperature=1e-4)
    nearest = quick.score(two["method"], two["variables"], {"x": x}, size=size)
    found = quick.score(sharp, two["variables"], {"x": x}, size=size)
    np.testing.assert_allclose(found.map, nearest.map, atol=1e-5)


def test_observe_takes_the_statistics_of_each_subclass(two):
    rng = np.random.default_rng(6)
    x = rng.normal(size=(6, GRID, GRID, C)).astype(np.float32)
    y = np.asarray([0, 1, 1, 0, 1, 1])
    batches = [({"x": x[:4]}, {"subclass": y[:4]}), ({"x": x[4:]}, {"subclass": y[4:]})]
    for spread in ("image", "all"):
        method, _ = build(2, spread=spread)
        found = method.observe(two["variables"], batches)["patches"]
        for k in range(2):
            own = x[y == k]
            std = own.std(axis=(1, 2)).mean(0) if spread == "image" else own.std(axis=(0, 1, 2))
            np.testing.assert_allclose(found["mean"][k], own.mean(axis=(0, 1, 2)), atol=1e-5)
            np.testing.assert_allclose(found["std"][k], std, atol=1e-5)


@pytest.mark.parametrize("axes", ["all", "channels"])
def test_scalar_statistics_have_one_number_an_expert(two, axes):
    method, _ = build(2, adaption=Adaption(axes=axes))
    x = np.random.default_rng(7).normal(size=(4, GRID, GRID, C)).astype(np.float32)
    batch = {"subclass": np.asarray([0, 1, 0, 1])}
    variables = method.observe(two["variables"], [({"x": x}, batch)])
    assert variables["patches"]["mean"].shape == (2, 1)
    np.testing.assert_allclose(variables["patches"]["mean"][0], x[::2].mean(), atol=1e-5)
    assert np.isfinite(quick.score(method, variables, {"x": x}, size=(12, 12)).map).all()


def test_one_image_and_a_constant_channel_give_finite_numbers():
    rng = np.random.default_rng(8)
    images = np.repeat(normal(rng, 1, np.zeros(C))[None], 2, axis=0)
    images[..., 0] = 1.0
    method, _ = build(2, normalise=True)
    variables = train(method, images, 3)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))
    run = quick.jit(lambda x: method.score(variables, {"x": x}, size=(GRID, GRID)))
    for x in (images[0], np.zeros_like(images[0])):
        found = run(x)
        assert np.isfinite(found.map).all()
        assert np.isfinite(found.image).all()


@pytest.mark.parametrize(
    ("options", "width"),
    [({"k": 2, "temperature": 0.3}, 16), ({"k": 1, "centre": "router", "spread": "all"}, C)],
)
def test_score_is_equations_4_to_6_image_by_image(options, width):
    """Routed, calibrated to each of its experts, brought to length 1, judged and mixed by hand."""
    expert, router = Expert(32), Router(width, 3, True)
    parts = {
        "experts": experts("x", expert, count=3),
        "router": routing("x", router),
    }
    method = adapted_moe("x", parts, expert, router, count=3, smoothing=0.0, **options)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(4, 5, 4, C)).astype(np.float32) + 0.5
    variables = quick.init(method, {"x": jnp.asarray(x[:1])})
    shape = {"mean": (3, C), "std": (3, C)}
    learnt = {n: np.float32(draw.uniform(0.5, 2, s)) for n, s in shape.items()}
    own = {"params": variables["params"]["router"]}
    embedding = np.asarray(quick.jit(router.apply)(own, x)[0])
    centres = np.float32(2 * embedding[:3] + 0.01 * draw.normal(size=(3, width)))
    variables = {**variables, "patches": learnt, "routing": {"centres": centres}}
    variables["batch_stats"] = jax.tree.map(
        lambda v: np.float32(draw.uniform(0.3, 2, v.shape)), variables["batch_stats"]
    )
    found = quick.score(method, variables, {"x": x}, size=(5, 4))

    cosine = (embedding / np.linalg.norm(embedding, axis=1)[:, None]) @ (
        centres / np.linalg.norm(centres, axis=1)[:, None]
    ).T
    k, adds = options["k"], centres if options.get("centre") == "router" else learnt["mean"]
    judge = quick.jit(lambda v, y: expert.apply(v, y)[0])
    used = set()
    for i in range(len(x)):
        nearest = np.argsort(-cosine[i])[:k]
        used |= {int(j) for j in nearest}
        weights = np.exp(cosine[i, nearest] / options.get("temperature", 0.1))
        want = 0.0
        for weight, j in zip(weights / weights.sum(), nearest):
            mean, std = x[i].mean(axis=(0, 1)), x[i].std(axis=(0, 1))
            y = (x[i] - mean) / std * learnt["std"][j] + adds[j]
            y = y / np.linalg.norm(y, axis=-1, keepdims=True)
            want = want - weight * np.asarray(judge(expert_of(variables, int(j)), y))
        np.testing.assert_allclose(found.map[i], want, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found.image[i], want.max(), rtol=1e-3, atol=1e-4)
    assert used == {0, 1, 2}


def test_parts_have_keys_of_their_own_in_start_and_loss():
    """A key that served two parts is refused here (jax_debug_key_reuse, tests/conftest.py)."""
    method, parts = build(2)
    x = {"x": jax.random.normal(jax.random.key(0), (4, GRID, GRID, C))}
    variables = quick.init(method, x)
    label = jnp.asarray([0, 1, 0, 1], jnp.int32)
    value, _ = quick.loss(method, variables, x, {"subclass": label})
    assert np.isfinite(value)
    alone = quick.init(parts["experts"], x)
    kernel = ("params", "experts", "adaptor", "kernel")
    ours, theirs = variables, alone
    for name in kernel:
        ours, theirs = ours[name], theirs[name]
    assert np.abs(np.asarray(ours) - np.asarray(theirs)).max() > 1e-3


def test_noise_stays_with_its_element_through_the_grouping():
    """Elements that change places within their subclass take their noise along."""
    method = experts("x", Expert(8), count=2, noise=0.7)
    x = jax.random.normal(jax.random.key(0), (6, C))
    variables = quick.init(method, {"x": x})
    order = np.asarray([4, 1, 0, 5, 2, 3])
    run = quick.jit(
        lambda x, e: method.loss(variables, {"x": x}, {"element": e}, jax.random.key(1))
    )
    places = np.arange(6, dtype=np.int32) + 12
    first = run(x, places)[0]
    np.testing.assert_allclose(first, run(x[order], places[order])[0], rtol=1e-6)
    assert abs(first - run(x[order], places)[0]) > 1e-4


def test_batches_that_leave_out_a_subclass_and_unknown_choices_are_refused():
    np.testing.assert_array_equal(grouped(jnp.arange(6), 2), [[0, 2, 4], [1, 3, 5]])
    with pytest.raises(InputError, match="7 can not go through 2 subclasses"):
        grouped(jnp.zeros((7, 3)), 2)
    with pytest.raises(InputError, match=r"method\.axes is 'rows'"):
        build(2, adaption=Adaption(axes="rows"))
    with pytest.raises(InputError, match=r"method\.statistics is 'modes'"):
        build(2, adaption=Adaption("modes"))
    with pytest.raises(InputError, match=r"set method\.spread=image"):
        build(2, adaption=Adaption("quartiles"), spread="all")
    with pytest.raises(InputError, match="there are 2 experts"):
        build(2, k=3)
