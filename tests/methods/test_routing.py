"""The router: Eq. 1 and 2, the centres' own rule, cosine routing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick

from jaxad.methods.routing import Router, moved_centres, route, routing, routing_loss
from jaxad.parallel import AXIS
from jaxad.training.state import init_state
from jaxad.training.steps import make_train_step

CENTRES = jnp.asarray([[1.0, 0.0], [0.0, 2.0], [5.0, 5.0]])
X = jnp.asarray([[3.0, 0.0], [1.0, 2.0], [0.0, 0.0]])
Y = jnp.asarray([0, 0, 1])


def test_centres_move_by_the_formula_worked_by_hand():
    # Subclass 0: c = (1, 0), members (3, 0) and (1, 2); sum of c - x is (-2, -2), over 1 + 2.
    # Subclass 1: c = (0, 2), member (0, 0); sum of c - x is (0, 2), over 1 + 1. Subclass 2: none.
    moved = moved_centres(CENTRES, X, Y, rate=0.5)
    expected = [[1 + 0.5 * 2 / 3, 0.5 * 2 / 3], [0.0, 2 - 0.5 * 2 / 2], [5.0, 5.0]]
    np.testing.assert_allclose(moved, expected, rtol=1e-6)


def test_centres_of_a_split_batch_move_as_those_of_the_whole():
    x, y = jnp.concatenate([X, X + 1.0])[:4], jnp.concatenate([Y, Y])[:4]
    split = jax.pmap(
        lambda x, y: moved_centres(CENTRES, x, y, rate=0.5, axis_name=AXIS),
        axis_name=AXIS,
        devices=jax.local_devices()[:2],
    )(x.reshape(2, 2, 2), y.reshape(2, 2))
    whole = moved_centres(CENTRES, x, y, rate=0.5)
    np.testing.assert_allclose(split, np.broadcast_to(whole, (2, 3, 2)), rtol=1e-6)


def test_loss_weighs_distance_to_the_centre_against_cross_entropy():
    logits = jnp.asarray([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    distance = np.mean([4.0, 4.0, 4.0])  # (3,0)-(1,0); (1,2)-(1,0); (0,0)-(0,2)
    first = -np.log(np.e**2 / (np.e**2 + 2))
    entropy = np.mean([first, np.log(3), np.log(3)])
    for alpha in (0.0, 0.3, 1.0):
        found = routing_loss(X, logits, CENTRES, Y, alpha=alpha)
        np.testing.assert_allclose(found, alpha * distance + (1 - alpha) * entropy, rtol=1e-6)


def test_the_nearest_by_angle_come_first_whatever_their_length():
    x = jnp.asarray([[10.0, 1.0], [0.1, 0.3]])
    index, weights = route(x, CENTRES, k=2, temperature=0.1)
    np.testing.assert_array_equal(index, [[0, 2], [1, 2]])
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-6)
    assert (weights[:, 0] > weights[:, 1]).all()
    same, _ = route(7 * x, CENTRES, k=2, temperature=0.1)
    np.testing.assert_array_equal(index, same)
    _, sharp = route(x, CENTRES, k=2, temperature=1e-3)
    np.testing.assert_allclose(sharp[:, 0], 1.0, atol=1e-6)


def test_training_learns_to_tell_subclasses_apart():
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(3, 1, 1, 8)).astype(np.float32)
    router = Router(16, 3, True)
    method = routing("x", router, learning_rate=1e-2)

    def batch(count: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        y = rng.integers(0, 3, count).astype(np.int32)
        noise = rng.normal(size=(count, 4, 4, 8)).astype(np.float32)
        return {"x": kinds[y] + noise}, y

    found, _ = batch(2)
    optimizer = method.optimizer(1)
    state = init_state(quick.init(method, jax.tree.map(jnp.asarray, found)), optimizer)

    def loss(variables, frozen, batch, key):
        return method.loss(variables, {"x": batch["x"]}, {"subclass": batch["subclass"]}, key)

    step = quick.jit(make_train_step(loss, optimizer))
    for _ in range(40):
        found, y = batch(16)
        state, _ = step(state, {}, {**found, "subclass": y}, jax.random.key(1))
    found, y = batch(64)
    _, aux = quick.loss(method, state.variables, found, {"subclass": y})
    assert aux.metrics["routed_right"][0] > 0.95
    foreign = {"x": -10 * kinds[:1] + 0 * found["x"][:1]}
    near = quick.score(method, state.variables, found, size=(8, 8))
    far = quick.score(method, state.variables, foreign, size=(8, 8))
    assert near.map.shape == (64, 8, 8)
    assert far.image[0] > near.image.mean()


def test_without_the_centre_loss_it_is_cross_entropy():
    logits = jax.random.normal(jax.random.key(0), (3, 3))
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()
    np.testing.assert_allclose(routing_loss(X, logits, CENTRES, Y, alpha=0.0), expected, rtol=1e-6)


@pytest.mark.parametrize("normalise", [False, True])
def test_embedding_is_the_mean_of_a_rectified_convolution(normalise: bool) -> None:
    """Eq. 1 by hand, with zeros around the map, and of length 1 only where that is asked for."""
    draw = np.random.default_rng(0)
    X = draw.normal(size=(2, 4, 3, 5)).astype(np.float32)
    router = Router(6, 3, normalise)
    params = quick.jit(router.init)(jax.random.key(0), X)["params"]
    params["project"]["bias"] = np.float32(draw.normal(size=6))
    kernel = np.asarray(params["project"]["kernel"])
    padded = np.pad(X, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = sum(padded[:, i : i + 4, j : j + 3] @ kernel[i, j] for i in range(3) for j in range(3))
    x = np.maximum(y + params["project"]["bias"], 0).mean(axis=(1, 2))
    if normalise:
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    got, logits = quick.jit(router.apply)({"params": params}, X)
    np.testing.assert_allclose(got, x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        logits, x @ np.asarray(params["classify"]["kernel"]), rtol=1e-4, atol=1e-5
    )


def test_loss_and_centres_follow_the_rates_that_were_given() -> None:
    router = Router(4, 2, False)
    method = routing("x", router, alpha=0.3, centre_rate=0.2, learning_rate=7e-3)
    found = {"x": jax.random.normal(jax.random.key(0), (5, 3, 3, 2))}
    variables = quick.init(method, found)
    variables["routing"] = {"centres": jax.random.normal(jax.random.key(1), (2, 4))}
    y = jnp.asarray([0, 1, 1, 0, 1])
    value, aux = quick.loss(method, variables, found, {"subclass": y})
    x, logits = quick.jit(router.apply)({"params": variables["params"]["router"]}, found["x"])
    centres = variables["routing"]["centres"]
    want = moved_centres(centres, x, y, rate=0.2)
    np.testing.assert_allclose(aux.updates["routing"]["centres"], want, rtol=1e-5)
    np.testing.assert_allclose(value, routing_loss(x, logits, centres, y, alpha=0.3), rtol=1e-5)
    gradients = [{"router": np.float32([1, -1])}, {"router": np.float32([2, 3])}]
    moves = quick.updates_of(method, 2, {"router": np.ones(2, np.float32)}, gradients)
    by_hand = quick.adam_by_hand(lambda _: 7e-3, np.ones(2), [g["router"] for g in gradients])
    np.testing.assert_allclose([m["router"] for m in moves], by_hand, rtol=1e-4)
