"""PaDiM against plain NumPy in float64, and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import quick

from jaxad.core import InputError, Method
from jaxad.methods import padim as module
from jaxad.methods.padim import padim, side_by_side


def of_positions(*values: Any) -> list[Any]:
    """Photos of one position with these channels."""
    return [({"a": np.asarray(v, np.float32).reshape(1, 1, 1, -1)}, {}) for v in values]


def photos(count: int, seed: int = 0) -> list[Any]:
    draw = np.random.default_rng(seed)
    shapes = {"a": (1, 4, 6, 3), "b": (1, 2, 3, 4)}
    return [
        ({name: draw.normal(size=s).astype(np.float32) for name, s in shapes.items()}, {})
        for _ in range(count)
    ]


def learnt(method: Method, images: list[Any], seed: int = 0) -> Any:
    assert method.finalize is not None
    return method.finalize(quick.init(method, images[0][0], seed=seed), images)


@pytest.mark.parametrize(
    ("samples", "query", "want"),
    [
        ([[1], [2], [3]], [4], 1.9900744),
        ([[0, 0], [2, 0], [0, 2], [2, 2]], [4, 1], 2.5883879),
    ],
)
@pytest.mark.parametrize("full", [True, False])
def test_by_hand(samples: Any, query: Any, want: float, full: bool) -> None:
    """The facts' cases; their covariances are diagonal."""
    method = padim(["a"], dimensions=0, full=full, smoothing=0.0)
    variables = learnt(method, of_positions(*samples))
    found = quick.score(method, variables, of_positions(query)[0][0], size=(1, 1))
    assert float(found.image[0]) == float(found.map[0, 0, 0]) == pytest.approx(want, abs=2e-6)


def test_levels_are_brought_to_the_first_ones_grid_by_nearest_neighbours() -> None:
    found = photos(1)[0][0]
    every = np.arange(7, dtype=np.int32)
    both = side_by_side(found, ["a", "b"], every)
    repeated = found["b"].repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(both, np.concatenate([found["a"], repeated], axis=-1))
    np.testing.assert_array_equal(
        side_by_side(found, ["a", "b"], every[[1, 5]]), np.asarray(both)[..., [1, 5]]
    )


@pytest.mark.parametrize("full", [True, False])
def test_scores_are_mahalanobis_distances(full: bool) -> None:
    method, images = padim(["a", "b"], dimensions=5, full=full, smoothing=0.0), photos(9)
    variables = learnt(method, images)
    drawn = variables["drawn"]["dimensions"]
    assert len(set(drawn.tolist())) == 5
    x, y = (
        np.concatenate([side_by_side(found, ["a", "b"], drawn) for found, _ in some])
        for some in (images, photos(2, seed=1))
    )
    want = np.zeros((2, 4, 6))
    for i, j in np.ndindex(4, 6):
        own = x[:, i, j].astype(np.float64)
        covariance = np.cov(own, rowvar=False) + 0.01 * np.eye(5)
        covariance = covariance if full else np.diag(np.diag(covariance))
        apart = y[:, i, j] - own.mean(axis=0)
        square = np.einsum("bi,ij,bj->b", apart, np.linalg.inv(covariance), apart)
        want[:, i, j] = np.sqrt(square)
    tested = {name: np.concatenate([f[name] for f, _ in photos(2, seed=1)]) for name in "ab"}
    found = quick.score(method, variables, tested, size=(4, 6))
    np.testing.assert_allclose(found.map, want, rtol=1e-5)
    np.testing.assert_allclose(found.image, want.max(axis=(1, 2)), rtol=1e-5)


def test_another_seed_draws_other_channels() -> None:
    method, images = padim(["a", "b"], dimensions=3), photos(3)
    drawn = [learnt(method, images, seed)["drawn"]["dimensions"].tolist() for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[2:] != [drawn[0]] * 2


def test_equal_photos_have_finite_scores() -> None:
    method, images = padim(["a"], dimensions=0), photos(1) * 3
    variables = learnt(method, images)
    found = quick.score(method, variables, images[0][0], size=(8, 8))
    np.testing.assert_allclose(found.map, 0, atol=1e-5)
    other = quick.score(method, variables, photos(1, seed=1)[0][0], size=(8, 8))
    assert np.isfinite(other.map).all()


def test_what_can_not_be_learnt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="PaDiM needs two at least"):
        learnt(padim(["a"], dimensions=0), photos(1))
    with pytest.raises(InputError, match=r"method\.dimensions is 8: there are 7 channels"):
        learnt(padim(["a", "b"], dimensions=8), photos(2))
    monkeypatch.setattr(module, "free_memory", lambda: 1000)
    with pytest.raises(InputError, match=r"set fewer method\.dimensions"):
        learnt(padim(["a", "b"], dimensions=7), photos(2))
