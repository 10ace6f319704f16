"""Experts of any method behind one router: who judges, by which features, told in what."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from sklearn.metrics import roc_auc_score

from jaxad.core import Aux, InputError, Method, Scores, without_steps
from jaxad.methods.adapted_moe import adapted_moe, experts
from jaxad.methods.adaption import Adaption
from jaxad.methods.calibrated import LOCATION, SCALE
from jaxad.methods.mixture import Routed, learning, mixture
from jaxad.methods.patchcore import patchcore
from jaxad.methods.routing import Router, routing
from jaxad.methods.simplenet import Expert, simplenet

C, GRID = 6, 4
SIZE = (GRID, GRID)
BANK = patchcore("x", sampler="random", share=0.5, narrow=0, smoothing=0.0)


def build(expert: Method, count: int = 2, *, trained: bool = False, **options: Any) -> Method:
    router = Router(8, count, True)
    routed = Routed("x", router, routing("x", router)) if count > 1 else None
    options = {"adaption": None, "size": SIZE, **options}
    return mixture(expert, ["x"], routed, count=count, trained=trained, **options)


def photos(
    count: int, centre: float, spread: float, seed: int, *, bad: bool = False
) -> np.ndarray[Any, Any]:
    """Photos of one kind, whose router features point its way; one patch of the bad ones is off."""
    draw = np.random.default_rng(seed)
    x = spread * draw.normal(size=(count, GRID, GRID, C))
    x[..., 0] += centre
    if bad:
        x[:, 1, 2, 1] += 8 * spread
    return x.astype(np.float32)


def pairs(*kinds: np.ndarray[Any, Any]) -> list[Any]:
    """The photos of several subclasses in turn, as a method gets them."""
    every = [(x[None], k) for k, own in enumerate(kinds) for x in own]
    every = [every[i] for i in np.random.default_rng(0).permutation(len(every))]
    return [({"x": jnp.asarray(x)}, {"subclass": np.asarray([k], np.int32)}) for x, k in every]


def sent(variables: Any) -> Any:
    """Variables whose router sends what points up to expert 0, and down to expert 1."""
    kernel = np.zeros((3, 3, C, 8), np.float32)
    kernel[1, 1, 0, :2] = [1, -1]
    project = {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(8)}
    router = {**variables["params"]["router"], "project": project}
    centres = jnp.eye(2, 8)
    return {
        **variables,
        "params": {**variables["params"], "router": router},
        "routing": {"centres": centres},
    }


@pytest.fixture(scope="module")
def kinds() -> list[np.ndarray[Any, Any]]:
    """A quiet kind, and one that varies ten times as much."""
    return [photos(12, 9.0, 0.1, 1), photos(7, -9.0, 1.0, 2)]


def learnt(method: Method, images: list[Any]) -> Any:
    variables = sent(quick.init(method, images[0][0]))
    variables = method.observe(variables, images) if method.observe else variables
    return method.finalize(variables, images) if method.finalize else variables


@pytest.fixture(scope="module")
def banks(kinds: list[np.ndarray[Any, Any]]) -> Any:
    """Variables of both kinds' banks, with what their scores are told in."""
    return learnt(build(BANK), pairs(*kinds))


def test_banks_are_of_their_own_subclass_and_searched_by_the_router(banks: Any) -> None:
    method, variables = build(BANK, normalise_scores=False), banks
    members = [len(variables["bank"][str(k)]["members"]) for k in range(2)]
    assert members == [12 * 16 // 2, 7 * 16 // 2]
    assert method.grows == BANK.grows
    x = np.concatenate([photos(3, 9.0, 0.1, 3), photos(3, -9.0, 1.0, 4)])
    assert method.route(variables, {"x": x}).tolist() == [0] * 3 + [1] * 3
    for form in (variables, method.fold(variables)):
        found = quick.score(method, form, {"x": x}, size=SIZE)
        for k, own in ((0, slice(3)), (1, slice(3, 6))):
            bank = {name: variables[name][str(k)] for name in ("bank", "drawn")}
            want = quick.score(BANK, bank, {"x": x[own]}, size=SIZE)
            np.testing.assert_allclose(found.map[own], want.map, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found.image[own], want.image, rtol=1e-4, atol=1e-5)


def test_scores_of_different_experts_are_told_in_what_is_normal_for_them(banks: Any) -> None:
    """Defects of the quiet kind are smaller than what is normal for the other."""
    good = np.concatenate([photos(20, 9.0, 0.1, 5), photos(20, -9.0, 1.0, 6)])
    bad = np.concatenate([photos(20, 9.0, 0.1, 7, bad=True), photos(20, -9.0, 1.0, 8, bad=True)])
    truth = np.repeat([0, 1], 40)
    found = {}
    for normalise in (False, True):
        method = build(BANK, normalise_scores=normalise)
        scores = quick.score(method, banks, {"x": np.concatenate([good, bad])}, size=SIZE)
        found[normalise] = roc_auc_score(truth, scores.image)
        mask = np.zeros((80, *SIZE), bool)
        mask[40:, 1, 2] = True
        found[normalise, "pixel"] = roc_auc_score(mask.ravel(), np.ravel(scores.map))
    assert found[False] < 0.8
    assert found[True] > 0.99
    assert found[True, "pixel"] > found[False, "pixel"] + 0.03


def test_what_scores_are_told_in_is_their_mean_and_spread(
    banks: Any, kinds: list[np.ndarray[Any, Any]]
) -> None:
    method, raw = build(BANK), build(BANK, normalise_scores=False)
    variables = banks
    for k, own in enumerate(kinds):
        plain = quick.score(raw, variables, {"x": own}, size=SIZE)
        normal = {name: float(value[k]) for name, value in variables["normal"].items()}
        assert normal["map"] == pytest.approx(float(np.mean(plain.map)), rel=1e-3)
        assert normal["scale"] == pytest.approx(float(np.std(plain.map)), rel=1e-3)
        assert normal["image"] == pytest.approx(float(np.mean(plain.image)), rel=1e-3)
        found = quick.score(method, variables, {"x": own}, size=SIZE)
        want = (plain.image - normal["image"]) / normal["scale"]
        np.testing.assert_allclose(found.image, want, rtol=1e-3, atol=1e-3)


def test_one_photo_or_photos_of_one_colour_give_finite_scores() -> None:
    flat = np.full((2, GRID, GRID, C), -3.0, np.float32)
    method = build(BANK, adaption=Adaption("quartiles", share=0.5))
    variables = learnt(method, pairs(photos(1, 9.0, 0.1, 1), flat))
    np.testing.assert_array_equal(variables["normal"]["scale"][1], 1.0)
    x = np.concatenate([flat, np.zeros_like(flat), photos(2, -9.0, 1.0, 3)])
    found = quick.score(method, variables, {"x": x}, size=SIZE)
    assert np.isfinite(found.map).all()
    assert np.isfinite(found.image).all()


@pytest.mark.parametrize("adaption", [None, Adaption("moments", "all", 0.5)])
def test_with_simplenet_it_is_adapted_moe(adaption: Adaption | None) -> None:
    expert, router = Expert(5), Router(8, 3, True)
    options = {"normalise": False, "adaption": adaption, "smoothing": 0.0, "k": 1}
    parts = {
        "experts": experts("x", expert, count=3, normalise=False),
        "router": routing("x", router),
    }
    ours = adapted_moe("x", parts, expert, router, count=3, **options)  # type: ignore[arg-type]
    x = {"x": jnp.asarray(photos(6, 1.0, 1.0, 0))}
    variables = quick.filled(ours, x)
    variables["routing"]["centres"] = jnp.eye(3, 8)
    images = pairs(*np.split(np.asarray(x["x"]), 3))
    variables = ours.observe(variables, images)
    want = quick.score(ours, variables, x, size=SIZE)

    alone = simplenet("x", hidden=5, smoothing=0.0)
    routed = Routed("x", router, parts["router"])
    whole = mixture(
        alone,
        ["x"],
        routed,
        count=3,
        size=SIZE,
        adaption=adaption,
        normalise_scores=False,
    )
    params = {**variables["params"]["experts"], "router": variables["params"]["router"]}
    own = {
        "params": params,
        "batch_stats": variables["batch_stats"]["experts"],
        "routing": variables["routing"],
    }
    if adaption is not None:
        own["subclasses"] = quick.init(whole, x)["subclasses"]
    own = whole.observe(own, images)
    np.testing.assert_array_equal(whole.route(own, x), ours.route(variables, x))
    for form in (own, whole.fold(own)):
        found = quick.score(whole, form, x, size=SIZE)
        np.testing.assert_allclose(found.map, want.map, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found.image, want.image, rtol=1e-3, atol=1e-4)


def test_the_loss_is_the_router_s_and_the_experts_and_each_has_its_optimizer() -> None:
    alone = simplenet("x", hidden=5, noise=0.0)
    method = build(alone, trained=True)
    x = {"x": jnp.asarray(photos(4, 1.0, 1.0, 0))}
    variables = quick.filled(method, x)
    batch = {"subclass": jnp.asarray([0, 1, 0, 1], jnp.int32)}
    value, aux = quick.loss(method, variables, x, batch)
    part = learning(alone, ["x"], count=2)
    own, _ = quick.loss(part, variables, x, batch)
    other, _ = quick.loss(routing("x", Router(8, 2, True)), variables, x, batch)
    assert float(value) == pytest.approx(float(own + other), rel=1e-5)
    assert {"batch_stats", "routing"} == set(aux.updates)
    gradients = jax.tree.map(jnp.ones_like, variables["params"])
    (moves,) = quick.updates_of(method, 5, variables["params"], [gradients])
    router = moves["router"]["project"]["kernel"]
    np.testing.assert_allclose(router, -1e-3, rtol=1e-3)
    np.testing.assert_allclose(moves["enter"]["kernel"], -2e-4, rtol=1e-3)


def test_experts_learn_what_they_are_given_at_test() -> None:
    """Maps and drawn positions are moved alike, each element to its own subclass."""
    how = Adaption("moments", share=0.5, training=True)
    given: list[Any] = []

    def init(rng: Any, features: Any) -> Any:
        return {"params": {"w": jnp.zeros(1)}}

    def loss(variables: Any, features: Any, batch: Any, rng: Any) -> Any:
        given.append(features["x"])
        return jnp.zeros(()), Aux({}, {})

    alone = Method(init, loss, BANK.score, BANK.optimizer)
    part = learning(alone, ["x"], count=2, tied=True, adaption=how)
    x = photos(2, 1.0, 1.0, 0)
    variables = quick.init(part, {"x": jnp.asarray(x)})
    assert variables["subclasses"]["x"]["scale"].shape == (2, C)
    variables["subclasses"]["x"] = {
        "location": jnp.asarray(np.arange(2 * C, dtype=np.float32).reshape(2, C)),
        "scale": jnp.full((2, C), 2.0),
    }
    batch = {"subclass": jnp.asarray([0, 1], jnp.int32)}
    part.loss(variables, {"x": jnp.asarray(x)}, batch, jax.random.key(0))
    own = [np.mean(x, (1, 2), keepdims=True), np.std(x, (1, 2), keepdims=True)]
    to = np.arange(2 * C).reshape(2, 1, 1, C)
    want = (x - own[0]) * np.sqrt(2 / own[1]) + (own[0] + to) / 2
    np.testing.assert_allclose(given.pop(), want, rtol=1e-3, atol=1e-3)
    drawn = {
        "x": jnp.asarray(x[:, 1, 2]),
        **{"x" + name: jnp.asarray(v[:, 0, 0]) for name, v in zip((LOCATION, SCALE), own)},
    }
    part.loss(variables, drawn, batch, jax.random.key(0))
    np.testing.assert_allclose(given.pop(), want[:, 1, 2], rtol=1e-3, atol=1e-3)


def test_what_can_not_be_an_expert_is_refused() -> None:
    with pytest.raises(InputError, match="trained by steps and grows"):
        build(BANK, trained=True)
    with pytest.raises(InputError, match=r"method\.top_k is 3: there are 2 experts"):
        build(BANK, k=3)

    def init(rng: Any, features: Any) -> Any:
        return {"normal": {"x": jnp.zeros(1)}}

    def score(variables: Any, features: Any, *, size: Any) -> Scores:
        raise AssertionError("what is refused is never asked")

    taken = without_steps(init, score, lambda variables, images: variables)
    with pytest.raises(InputError, match=r"can not be named \['normal'\]"):
        quick.init(build(taken), {"x": jnp.zeros((1, GRID, GRID, C))})
