"""The coreset is the textbook's, whatever pool the farthest is sought in."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.methods import coreset
from jaxad.methods.coreset import from_mean, from_row, k_centre, projection


def textbook(x: np.ndarray, count: int, closest: np.ndarray) -> list[int]:
    x, closest, chosen = x.astype(np.float64), closest.astype(np.float64), list[int]()
    for _ in range(count):
        chosen.append(int(np.argmax(closest)))
        closest = np.minimum(closest, np.sum((x - x[chosen[-1]]) ** 2, axis=1))
        closest[chosen] = -1
    return chosen


def test_by_hand() -> None:
    """The facts' case: 0, 1, 2, 10 from the row of the largest norm."""
    x = jnp.asarray([[0.0], [1.0], [2.0], [10.0]])
    assert k_centre(x, 3, closest=from_row(4, 3)).tolist() == [3, 0, 2]


@pytest.mark.parametrize("pool", [1, 64, 500])
@pytest.mark.parametrize("start", ["row", "mean"])
def test_choice_is_the_textbooks(pool: int, start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreset, "ROWS", 128)
    monkeypatch.setattr(coreset, "TAKEN", 8)
    jax.clear_caches()
    x = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    if start == "row":
        closest = np.asarray(from_row(300, 17))
    else:
        starts = np.asarray([3, 5, 250])
        closest = np.asarray(from_mean(jnp.asarray(x), jnp.asarray(starts)))
        apart = np.linalg.norm(x[:, None].astype(np.float64) - x[starts][None], axis=-1)
        np.testing.assert_allclose(closest, apart.mean(axis=1) ** 2, rtol=1e-5)
    chosen = k_centre(jnp.asarray(x), 60, closest=jnp.asarray(closest), pool=pool)
    assert chosen.tolist() == textbook(x, 60, closest)


def test_equal_vectors_are_chosen_last_and_once_each() -> None:
    x = np.zeros((20, 3), np.float32)
    x[7] = 1
    chosen = k_centre(jnp.asarray(x), 20, closest=from_row(20, 2))
    assert chosen[:2].tolist() == [2, 7]
    assert sorted(chosen.tolist()) == list(range(20))


def test_projections_keep_distances_on_average() -> None:
    x = np.random.default_rng(1).normal(size=(1000, 400))
    near = x @ np.asarray(projection(jax.random.key(0), 400, 100))
    before, after = (np.sum((y[:500] - y[500:]) ** 2, axis=1) for y in (x, near))
    assert np.mean(after / before) == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(projection(jax.random.key(0), 4, 0), np.eye(4))
