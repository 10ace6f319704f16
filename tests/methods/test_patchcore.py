"""PatchCore against plain NumPy in float64: banks, maps and image scores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest
import quick
from test_coreset import textbook

from jaxad.core import InputError, Method
from jaxad.methods import patchcore as module
from jaxad.methods.patchcore import patchcore
from jaxad.methods.simplenet import patch_features

SHAPE = (4, 5, 6)


def photos(count: int, seed: int = 0) -> list[Any]:
    draw = np.random.default_rng(seed)
    return [
        ({"x": draw.normal(size=(1, *SHAPE)).astype(np.float32)}, {"subclass": np.zeros(1)})
        for _ in range(count)
    ]


def patches_of(images: Sequence[Any]) -> np.ndarray:
    return np.concatenate([found["x"].reshape(-1, SHAPE[-1]) for found, _ in images])


def learnt(method: Method, images: Sequence[Any], seed: int = 0) -> Any:
    assert method.finalize is not None
    return method.finalize(quick.init(method, images[0][0], seed=seed), images)


def reference(
    x: np.ndarray, bank: np.ndarray, *, squared: bool, k: int, b: int, top: int
) -> tuple[np.ndarray, float]:
    """Scores of the patches of one image, and its own."""
    h, w, width = x.shape
    x, bank = x.reshape(-1, width).astype(np.float64), bank.astype(np.float64)
    apart = np.linalg.norm(x[:, None] - bank[None], axis=-1)
    near = np.sort(apart, axis=1)[:, :k]
    patches = np.mean(near**2 if squared else near, axis=1)
    image = np.mean(np.sort(patches)[-top:])
    if b:
        i = np.argmax(patches)
        member = bank[np.argmin(apart[i])]
        support = bank[np.argsort(np.linalg.norm(bank - member, axis=1))[:b]]
        powers = np.exp(np.linalg.norm(support - x[i], axis=1))
        image *= 1 - powers[0] / powers.sum()
    return patches.reshape(h, w), image


@pytest.mark.parametrize(
    ("squared", "k", "b", "top"),
    [(True, 1, 0, 1), (False, 1, 9, 1), (False, 3, 0, 4), (True, 2, 4, 1)],
)
def test_scores_are_those_of_the_formulas(squared: bool, k: int, b: int, top: int) -> None:
    method = patchcore(
        "x",
        sampler="random",
        share=0.5,
        squared=squared,
        neighbours=k,
        reweighting=b,
        top_share=0.0 if top == 1 else top / 20,
        smoothing=0.0,
    )
    variables = learnt(method, photos(5))
    bank = np.asarray(variables["bank"]["members"])
    assert bank.shape == (50, 6)
    tested = np.concatenate([found["x"] for found, _ in photos(3, seed=1)])
    want = [reference(x, bank, squared=squared, k=k, b=b, top=top) for x in tested]
    assert method.fold is not None
    for own in (variables, method.fold(variables)):
        found = quick.score(method, own, {"x": tested}, size=SHAPE[:2])
        np.testing.assert_allclose(found.map, [grid for grid, _ in want], rtol=1e-5)
        np.testing.assert_allclose(found.image, [image for _, image in want], rtol=1e-5)


def test_the_map_is_resized_and_smoothed() -> None:
    rough, smooth = (patchcore("x", sampler="random", smoothing=s) for s in (0.0, 2.0))
    variables = learnt(rough, photos(2))
    tested = photos(1, seed=1)[0][0]
    maps = [quick.score(m, variables, tested, size=(16, 20)).map for m in (rough, smooth)]
    assert maps[0].shape == (1, 16, 20)
    assert np.std(maps[1]) < 0.8 * np.std(maps[0])


@pytest.mark.parametrize("sampler", ["reference", "greedy", "random"])
def test_the_bank_is_patches_chosen_by_the_seed(sampler: str) -> None:
    method, images = patchcore("x", sampler=sampler, share=0.25, narrow=0), photos(4)
    variables, again, other = (learnt(method, images, seed) for seed in (0, 0, 1))
    members = np.asarray(variables["bank"]["members"])
    np.testing.assert_array_equal(members, again["bank"]["members"])
    assert not np.array_equal(members, other["bank"]["members"])
    x = patches_of(images)
    chosen = [int(np.flatnonzero((x == member).all(axis=1))[0]) for member in members]
    assert len(set(chosen)) == len(members) == 20
    starting = jax.random.split(jax.random.key(int(variables["drawn"]["seed"])))[1]
    if sampler == "greedy":
        first = int(jax.random.randint(starting, (), 0, len(x)))
        closest = np.where(np.arange(len(x)) == first, np.inf, 1e30)
    elif sampler == "reference":
        starts = np.asarray(jax.random.choice(starting, len(x), (10,), replace=False))
        apart = np.linalg.norm(x[:, None].astype(np.float64) - x[starts][None], axis=-1)
        closest = apart.mean(axis=1) ** 2
    if sampler != "random":
        assert chosen == sorted(textbook(x, 20, closest))


def test_projected_patches_are_chosen_by_and_whole_ones_kept() -> None:
    images = photos(4)
    plain, narrow = (learnt(patchcore("x", share=0.25, narrow=n), images) for n in (0, 2))
    assert narrow["bank"]["members"].shape == (20, 6)
    assert not np.array_equal(narrow["bank"]["members"], plain["bank"]["members"])


@pytest.mark.parametrize("sampler", ["reference", "greedy", "random"])
def test_a_bank_is_updated(sampler: str) -> None:
    """The first photo is forgotten, two come; share and sampler hold for what there is then."""
    method, images, new = (
        patchcore("x", sampler=sampler, share=0.25, narrow=0),
        photos(4),
        photos(2, 7),
    )
    assert method.update is not None
    variables = learnt(method, images)
    before, of = (np.asarray(variables["bank"][name]) for name in ("members", "photo"))
    x = patches_of(images)
    np.testing.assert_array_equal(
        of, [np.flatnonzero((x == m).all(axis=1))[0] // 20 for m in before]
    )
    after = method.update(variables, new, stay=np.asarray([False, True, True, True]))["bank"]
    members, photo = np.asarray(after["members"]), np.asarray(after["photo"])
    stay = before[of > 0]
    np.testing.assert_array_equal(members[: len(stay)], stay)
    np.testing.assert_array_equal(photo[: len(stay)], of[of > 0] - 1)
    assert len(members) == 25  # of 5 photos of 20 patches
    x = patches_of(new)
    chosen = [int(np.flatnonzero((x == member).all(axis=1))[0]) for member in members[len(stay) :]]
    np.testing.assert_array_equal(photo[len(stay) :], 3 + np.asarray(chosen) // 20)
    if sampler != "random":
        closest = np.sum((x[:, None].astype(np.float64) - stay[None]) ** 2, axis=-1).min(axis=1)
        assert chosen == sorted(textbook(x, len(chosen), closest))
    alone = method.update(variables, [], stay=np.asarray([False, True, True, True]))["bank"]
    np.testing.assert_array_equal(alone["members"], stay)


def test_a_bank_of_nothing_is_refused() -> None:
    method = patchcore("x", share=0.25)
    assert method.update is not None
    with pytest.raises(InputError, match="has 0 patches, fewer than the 1 neighbours"):
        method.update(learnt(method, photos(2)), [], stay=np.zeros(2, bool))


def test_equal_photos_have_finite_scores() -> None:
    images = photos(1) * 3
    method = patchcore("x", sampler="greedy", share=1.0, squared=False, reweighting=9)
    found = quick.score(method, learnt(method, images), images[0][0], size=(8, 8))
    np.testing.assert_array_equal(found.map, 0)
    np.testing.assert_array_equal(found.image, 0)


@pytest.mark.parametrize("options", [{"neighbours": 9}, {"reweighting": 9}])
def test_fewer_patches_than_neighbours_are_refused(options: Any) -> None:
    with pytest.raises(InputError, match="has 8 of 80 patches, fewer than the 9 neighbours"):
        learnt(patchcore("x", **options), photos(4))


def test_a_bank_that_does_not_fit_is_refused_with_the_share_that_would(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = photos(4)
    monkeypatch.setattr(module, "free_memory", lambda: 6000)
    with pytest.raises(InputError, match=r"80 of 80 patches of 6 numbers .* GB of memory") as told:
        learnt(patchcore("x", share=1.0, narrow=2), images)
    share = re.search(r"method\.share=(\S+) would fit", str(told.value))
    assert share is not None
    assert 0.3 < float(share[1]) < 0.8
    capsys.readouterr()
    learnt(patchcore("x", share=0.9 * float(share[1]), narrow=2), images)
    assert "patches of 6 numbers are kept" in capsys.readouterr().err
    monkeypatch.setattr(module, "free_memory", lambda: 100)
    with pytest.raises(InputError, match=r"method\.sampler='random'"):
        learnt(patchcore("x", narrow=2), images)


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(InputError, match=r"method\.sampler is 'best'"):
        patchcore("x", sampler="best")
    with pytest.raises(InputError, match="set one of them to 0"):
        patchcore("x", reweighting=9, top_share=0.1)


def test_it_has_no_steps() -> None:
    method = patchcore("x")
    for call in (lambda: method.loss({}, {}, {}, jax.random.key(0)), lambda: method.optimizer(1)):
        with pytest.raises(InputError, match="learns without steps"):
            call()


def test_averaged_features_are_of_all_channels() -> None:
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 2)).astype(np.float32)
    y = np.random.default_rng(1).normal(size=(1, 4, 6, 3)).astype(np.float32)
    found = patch_features({"x": x, "y": y}, ("x", "y"), width=0)
    both = np.pad(np.concatenate([x, y], axis=-1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    want = sum(both[:, i : i + 4, j : j + 6] for i in range(3) for j in range(3)) / 9
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
