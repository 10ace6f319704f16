"""Nearest neighbours are those of all differences, in chunks and blocks of any size."""

from __future__ import annotations

from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from jaxad.export.program import look_through
from jaxad.methods import neighbours, pruned
from jaxad.methods.neighbours import crowding, nearest, prepare

HAND = {"members": jnp.asarray([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])}
QUERY = jnp.asarray([0.0, 1.0])


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def all_differences(x: np.ndarray, members: np.ndarray) -> np.ndarray:
    return np.sum((x[:, None].astype(np.float64) - members[None]) ** 2, axis=-1)


@pytest.mark.parametrize("count", [1, 7, 37, 64])
@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_the_nearest_members_come_first(
    count: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (neighbours, pruned):
        monkeypatch.setattr(module, "CHUNK", 16)
    x, members = numbers(11, 5), numbers(count, 5, seed=1)

    def found(x: Any, members: Any) -> Any:
        return nearest(x, prepare({"members": members}), k=k)

    distance, number = quick.jit(found)(x, members)
    every = all_differences(x, members)
    there = min(k, count)
    np.testing.assert_allclose(distance[:, :there], np.sort(every, axis=1)[:, :there], rtol=1e-5)
    np.testing.assert_array_equal(number[:, :there], np.argsort(every, axis=1)[:, :there])
    assert np.isinf(distance[:, there:]).all()


def groups_of(count: int, *, seed: int) -> np.ndarray:
    """Vectors of 16 numbers around few places, so that most are far from each other."""
    near = numbers(count, 16, seed=seed) * np.geomspace(1, 0.02, 16, dtype=np.float32)
    return near + 4 * numbers(6, 16, seed=9)[np.arange(count) % 6]


CASES: dict[str, Any] = {
    "groups": (groups_of(300, seed=1), groups_of(41, seed=2)),
    "members themselves": (groups_of(300, seed=1), groups_of(300, seed=1)[::7]),
    "no groups": (numbers(300, 16, seed=1), numbers(41, 16, seed=2)),
    "each member thrice": (np.tile(groups_of(100, seed=1), (3, 1)), groups_of(41, seed=2)),
    "one member": (np.ones((300, 16), np.float32), groups_of(41, seed=2)),
    "far vectors": (groups_of(300, seed=1), 1e4 * numbers(41, 16, seed=2)),
    "a far member": (np.append(groups_of(299, seed=1), np.full((1, 16), 1e5, np.float32), axis=0),
                     groups_of(41, seed=2)),
    "one vector": (groups_of(300, seed=1), groups_of(1, seed=2)),
    "few members": (groups_of(33, seed=1), groups_of(41, seed=2)),
}  # fmt: skip


@pytest.mark.parametrize(("case", "crowded"), [*((case, 2.0) for case in CASES), ("groups", 0.0)])
def test_bounds_leave_out_none_that_is_nearest(
    case: str, crowded: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("FEWEST", 32), ("LEAF", 10), ("NUMBERS", 3), ("ROWS", 4), ("TURN", 3)):
        monkeypatch.setattr(pruned, name, value)
    monkeypatch.setattr(pruned, "CHUNK", 64)
    monkeypatch.setattr(pruned, "CROWDED", crowded)
    members, x = CASES[case]
    bank = quick.jit(lambda members: prepare({"members": members}))(members)
    assert bank["bounds"].shape[0] in (4, 32)
    (distance, number), (two, _) = quick.jit(
        lambda x, bank: (nearest(x, bank), nearest(x, bank, k=2))
    )(x, bank)
    every = np.sort(all_differences(x, members), axis=1)
    scale = np.sum(np.square(x - members.mean(axis=0)), axis=1)[:, None].max()
    np.testing.assert_allclose(distance, every[:, :1], rtol=1e-5, atol=1e-6 * scale)
    np.testing.assert_allclose(two, every[:, :2], rtol=1e-5, atol=1e-6 * scale)
    found = (np.asarray(bank["members"]) + np.asarray(bank["centre"]))[number[:, 0]]
    np.testing.assert_allclose(
        np.sum(np.square(x - found), axis=1), distance[:, 0], rtol=1e-4, atol=1e-6 * scale
    )


def test_most_leaves_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the plain products would compute is not computed: they give nonsense here."""
    for name, value in (("FEWEST", 32), ("LEAF", 10), ("NUMBERS", 3), ("ROWS", 4)):
        monkeypatch.setattr(pruned, name, value)
    members, x = CASES["members themselves"]
    bank = quick.jit(lambda members: prepare({"members": members}))(members)
    search = quick.jit(lambda x, bank: nearest(x, bank))
    leaf = bank["members"].shape[0] // bank["bounds"].shape[0]
    own = search(x[:1], bank)[1][0, 0] // leaf
    spoilt = np.asarray(bank["members"]).copy().reshape(-1, leaf, 16)
    own_x = x[0] - np.asarray(bank["centre"])
    far = np.sum((spoilt - own_x) ** 2, axis=-1).min(axis=1) > 1
    assert 10 < far.sum() < 32
    assert not far[own]
    spoilt[far] = own_x  # they would be nearest, were they looked at
    found = search(x[:1], {**bank, "members": spoilt.reshape(-1, 16)})
    assert found[1][0, 0] // leaf == own


def test_bounds_are_exported_for_any_number_of_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FEWEST", 32), ("LEAF", 10), ("NUMBERS", 3), ("ROWS", 4)):
        monkeypatch.setattr(pruned, name, value)
    members, x = CASES["groups"]
    bank = quick.jit(lambda members: prepare({"members": members}))(members)
    search = jax.jit(lambda x, bank: jax.lax.map(lambda own: nearest(own, bank), x))
    shape = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b"), *x.shape), np.float32)
    found = jax.export.export(search, platforms=("cpu", "cuda", "tpu"))(shape, bank)
    assert look_through(found.mlir_module_serialized) == []
    distance, _ = found.call(np.stack([x, x[::-1]]), bank)
    every = np.sort(all_differences(x, members), axis=1)[:, :1]
    np.testing.assert_allclose(distance[0], every, rtol=1e-5)
    np.testing.assert_allclose(distance[1], every[::-1], rtol=1e-5)


def test_a_member_has_the_distance_zero_however_long_it_is() -> None:
    members = 1000 + numbers(40, 6)
    distance, number = quick.jit(nearest)(members, prepare({"members": members}))
    np.testing.assert_array_equal(distance, 0)
    np.testing.assert_array_equal(number[:, 0], np.arange(40))


def test_a_bank_is_prepared_once() -> None:
    once = prepare(HAND)
    assert prepare(once) is once


def test_weight_by_hand() -> None:
    """The facts' case: .9414519 with three neighbours."""
    bank = prepare(HAND)
    distance, number = nearest(QUERY[None], bank)
    assert (float(distance[0, 0]), int(number[0, 0])) == (1.0, 0)
    for b in (3, 8, 99):  # there are no more than three
        assert float(crowding(QUERY, number[0, 0], bank, neighbours=b)) == pytest.approx(
            0.9414519, abs=1e-6
        )


def test_weights_are_at_least_those_of_equal_distances() -> None:
    members = np.concatenate([numbers(20, 3), np.zeros((5, 3), np.float32)])
    bank = prepare({"members": members})
    weigh = quick.jit(lambda x, i: crowding(x, i, bank, neighbours=4))
    for x in (*numbers(6, 3, seed=2), np.zeros(3, np.float32)):
        weight = float(weigh(x, nearest(x[None], bank)[1][0, 0]))
        assert 1 - 1 / 4 - 1e-6 <= weight < 1
    assert weight == pytest.approx(0.75)  # five equal members
