"""Nearest neighbours are those of all differences, in chunks and blocks of any size."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import quick

from jaxad.methods import neighbours
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
    monkeypatch.setattr(neighbours, "CHUNK", 16)
    x, members = numbers(11, 5), numbers(count, 5, seed=1)

    def found(x: Any, members: Any) -> Any:
        return nearest(x, prepare({"members": members}), k=k)

    distance, number = quick.jit(found)(x, members)
    every = all_differences(x, members)
    there = min(k, count)
    np.testing.assert_allclose(distance[:, :there], np.sort(every, axis=1)[:, :there], rtol=1e-5)
    np.testing.assert_array_equal(number[:, :there], np.argsort(every, axis=1)[:, :there])
    assert np.isinf(distance[:, there:]).all()


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
