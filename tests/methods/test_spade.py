"""SPADE against plain NumPy in float64, and by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import quick
from scipy.ndimage import gaussian_filter

from jaxad.core import InputError, Method
from jaxad.methods import spade as module
from jaxad.methods.spade import spade

SHAPES = {"a": (6, 7, 3), "b": (3, 4, 5), "c": (2, 2, 6)}
LEVELS = ("a", "b")


def photos(count: int, seed: int = 0) -> list[Any]:
    draw = np.random.default_rng(seed)
    return [
        ({name: draw.normal(size=(1, *s)).astype(np.float32) for name, s in SHAPES.items()}, {})
        for _ in range(count)
    ]


def of_means(*values: Any) -> list[Any]:
    """Photos of one position, the same at both levels."""
    every = [np.asarray(v, np.float32).reshape(1, 1, 1, -1) for v in values]
    return [({"a": x, "c": x}, {}) for x in every]


def learnt(method: Method, images: Sequence[Any]) -> Any:
    assert method.finalize is not None
    return method.finalize(quick.init(method, images[0][0]), images)


def score(method: Method, variables: Any, images: Sequence[Any], size: tuple[int, int]) -> Any:
    found = {name: np.concatenate([f[name] for f, _ in images]) for name in images[0][0]}
    return quick.score(method, variables, found, size=size)


def distances(x: np.ndarray, y: np.ndarray, *, cosine: bool) -> np.ndarray:
    """Of all rows of x from all rows of y."""
    if cosine:
        x, y = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (x, y))
        return 1 - x @ y.T
    return np.linalg.norm(x[:, None] - y[None], axis=-1)


def bilinear(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """torch's `interpolate(mode="bilinear", align_corners=False)` of one map."""

    def axis(x: np.ndarray, size: int) -> np.ndarray:
        at = np.clip((np.arange(size) + 0.5) * len(x) / size - 0.5, 0, len(x) - 1)
        low = np.floor(at).astype(int)
        share = (at - low)[:, None]
        return (1 - share) * x[low] + share * x[np.minimum(low + 1, len(x) - 1)]

    return axis(axis(x, size[0]).T, size[1]).T


def reference(
    own: Any, gallery: Sequence[Any], *, k: int, cosine: bool, size: tuple[int, int], sigma: float
) -> tuple[np.ndarray, float]:
    """Map and score of one photo."""
    own, *gallery = (
        {name: x[0].astype(np.float64) for name, x in found.items()} for found in (own, *gallery)
    )
    mean = np.stack([found["c"].mean(axis=(0, 1)) for found in gallery])
    apart = distances(own["c"].mean(axis=(0, 1))[None], mean, cosine=cosine)[0]
    near = np.argsort(apart)[:k]
    maps = []
    for level in LEVELS:
        h, w, width = own[level].shape
        every = np.concatenate([gallery[i][level].reshape(-1, width) for i in near])
        grid = distances(own[level].reshape(-1, width), every, cosine=cosine).min(axis=1)
        maps.append(bilinear(grid.reshape(h, w), size))
    return gaussian_filter(np.mean(maps, axis=0), sigma), float(np.mean(apart[near]))


@pytest.mark.parametrize(("k", "cosine", "sigma"), [(3, False, 2.0), (1, False, 0.0), (2, True, 1)])
def test_scores_are_those_of_the_formulas(k: int, cosine: bool, sigma: float) -> None:
    method = spade(LEVELS, pooled="c", neighbours=k, cosine=cosine, smoothing=sigma)
    gallery, tested, size = photos(7), photos(3, seed=1), (24, 28)
    found = score(method, learnt(method, gallery), tested, size)
    options: Any = {"k": k, "cosine": cosine, "size": size, "sigma": sigma}
    want = [reference(own, [f for f, _ in gallery], **options) for own, _ in tested]
    np.testing.assert_allclose(found.map, [map_ for map_, _ in want], rtol=1e-5)
    np.testing.assert_allclose(found.image, [image for _, image in want], rtol=1e-5)


def test_by_hand() -> None:
    """From (1, 0) it is 1 to the origin, 2 to (3, 0), √17 to (0, 4): the two nearest count."""
    method = spade(["a"], pooled="c", neighbours=2, smoothing=0.0)
    variables = learnt(method, of_means([0, 4], [3, 0], [0, 0]))
    found = score(method, variables, of_means([1, 0], [0, 3]), (1, 1))
    np.testing.assert_allclose(found.image, [1.5, 2.0], rtol=1e-6)
    np.testing.assert_allclose(found.map.ravel(), [1.0, 1.0], rtol=1e-6)


def test_roots_by_hand() -> None:
    """Of (9, -16) the root is (3, -4): 1 from (3, -3), which is that of (9, -9), 3 from (0, -4)."""
    method = spade([], pooled="c", neighbours=1, root=True)
    found = score(method, learnt(method, of_means([9, -9])), of_means([9, -16]), (1, 1))
    np.testing.assert_allclose(found.image, [1.0], rtol=1e-6)
    found = score(method, learnt(method, of_means([0, -16])), of_means([9, -16]), (1, 1))
    np.testing.assert_allclose(found.image, [3.0], rtol=1e-6)


def test_cosines_by_hand() -> None:
    method = spade([], pooled="c", neighbours=2, cosine=True)
    variables = learnt(method, of_means([9, 0], [0, 4], [-1, 0]))
    found = score(method, variables, of_means([2, 0], [3, 3]), (2, 3))
    np.testing.assert_allclose(found.image, [0.5, 1 - 0.5**0.5], rtol=1e-6)


def test_positions_are_sought_in_the_nearest_photos_alone() -> None:
    """The third photo has the very positions, but is far as a whole."""
    near, far = photos(2), photos(1, seed=1)[0]
    own = {name: x.copy() for name, x in near[0][0].items()}
    own |= {level: far[0][level] for level in LEVELS}
    far[0]["c"] += 10
    for k, zero in ((2, False), (3, True)):
        method = spade(LEVELS, pooled="c", neighbours=k, smoothing=0.0)
        found = score(method, learnt(method, [*near, far]), [(own, {})], (6, 7))
        assert bool((found.map == 0).all()) == zero


def test_no_position_is_left_out_and_nothing_added() -> None:
    """3 · 42 positions: the reference's code would look at 100, and add 1e-6 to differences."""
    method, gallery = spade(["a"], pooled="c", neighbours=3, smoothing=0.0), photos(3)
    found = score(method, learnt(method, gallery), gallery, (6, 7))
    np.testing.assert_array_equal(found.map, 0)


def test_without_levels_the_map_is_the_image_score(capsys: pytest.CaptureFixture[str]) -> None:
    method = spade([], pooled="c", neighbours=2)
    variables = learnt(method, photos(4))
    assert set(variables["gallery"]) == {"photos"}
    assert "the map is the image score, everywhere" in capsys.readouterr().err
    found = score(method, variables, photos(2, seed=1), (5, 6))
    assert found.map.shape == (2, 5, 6)
    np.testing.assert_array_equal(found.map, np.broadcast_to(found.image[:, None, None], (2, 5, 6)))


@pytest.mark.parametrize("cosine", [False, True])
def test_equal_and_black_photos_have_finite_scores(cosine: bool) -> None:
    black = ({name: 0 * x for name, x in photos(1)[0][0].items()}, {})
    method = spade(LEVELS, pooled="c", neighbours=3, cosine=cosine)
    for gallery in (photos(1) * 3, [black] * 3):
        variables = learnt(method, gallery)
        same = score(method, variables, gallery[:1], (8, 8))
        np.testing.assert_allclose(same.image, 0, atol=1e-6)
        np.testing.assert_allclose(same.map, 0, atol=1e-6)
        for other in (black, photos(1, seed=1)[0]):
            found = score(method, variables, [other], (8, 8))
            assert np.isfinite(found.map).all()
            assert np.isfinite(found.image).all()


def test_what_can_not_be_kept_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="4 photos, fewer than the 5 neighbours"):
        learnt(spade(LEVELS, pooled="c"), photos(4))
    method = spade(LEVELS, pooled="c", neighbours=1)
    each = 4 * (6 * 7 * 3 + 3 * 4 * 5 + 6)  # and once more the largest
    monkeypatch.setattr(module, "free_memory", lambda: 3 * (each + 4 * 6 * 7 * 3))
    learnt(method, photos(3))
    assert "SPADE: 3 photos are kept, 0.000 GB of features" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"GB of memory are free: .* or give 3 photos"):
        learnt(method, photos(4))
