"""Which images and positions a step sees: each once an epoch, shuffled, groups in turn."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest

from jaxad.training import sampling
from jaxad.training.sampling import in_turn, split
from jaxad.training.subclasses import Subclasses, one_for_all


def images(groups: Any, *, size: int, steps: int, devices: int = 1, seed: int = 0) -> Any:
    draw = sampling.draws(seed, "all")
    stream = sampling.image_stream(groups, size=size, devices=devices, draw=draw)
    return np.stack(list(itertools.islice(stream, steps)))


def positions(groups: Any, *, size: int, steps: int, devices: int = 1) -> Any:
    stream = sampling.position_stream(
        groups, size=size, per_image=10, devices=devices, draw=sampling.draws(0, "all")
    )
    return np.stack(list(itertools.islice(stream, steps)))


def test_every_image_once_an_epoch_in_an_order_of_its_own() -> None:
    seen = images([[np.arange(12)]], size=4, steps=9).reshape(3, 12)
    assert [sorted(epoch) for epoch in seen.tolist()] == [list(range(12))] * 3
    assert len({tuple(epoch) for epoch in seen.tolist()}) == 3
    assert all(epoch != sorted(epoch) for epoch in seen.tolist())
    # Epochs follow without a gap: 5 does not divide 12.
    seen = images([[np.arange(12)]], size=5, steps=12).ravel()
    assert set(Counter(seen.tolist()).values()) == {5}


def test_the_seed_and_the_phase_decide_the_order() -> None:
    group = [[np.arange(50)]]
    one, other = images(group, size=50, steps=1), images(group, size=50, steps=1, seed=1)
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(one, images(group, size=50, steps=1))
    draws = [sampling.draws(0, name).integers(2**32) for name in ("router", "experts", "retuor")]
    assert len(set(draws)) == 3


@pytest.mark.parametrize(("devices", "size"), [(1, 6), (2, 6), (4, 12)])
def test_groups_take_turns_on_every_device(devices: int, size: int) -> None:
    groups = [[np.arange(0, 10)], [np.arange(10, 14)], [np.arange(14, 20)]]
    of = np.repeat([0, 1, 2], [10, 4, 6])
    assert sampling.batch_elements(5, 3, devices) == size
    for drawn in (
        images(groups, size=5, steps=7, devices=devices),
        positions(groups, size=5, steps=7, devices=devices) // 10,
    ):
        assert drawn.shape == (7, size)
        np.testing.assert_array_equal(of[drawn], np.tile([0, 1, 2], (7, size // 3)))


@pytest.mark.parametrize(
    ("size", "groups", "devices", "seen"),
    [(8, 1, 1, 8), (8, 1, 4, 8), (8, 10, 1, 10), (8, 10, 4, 40), (6, 1, 4, 8), (1, 1, 1, 1)],
)
def test_what_a_step_sees_is_rounded_up(size: int, groups: int, devices: int, seen: int) -> None:
    assert sampling.batch_elements(size, groups, devices) == seen
    parts = [[np.arange(k * 7, k * 7 + 7)] for k in range(groups)]
    assert images(parts, size=size, steps=1, devices=devices).shape == (1, seen)
    # Steps go by what is seen, so that 160 epochs are 160 epochs.
    steps = sampling.steps_of(0, parts, epochs=160, batch=seen)
    assert steps == 160 * -(-7 * groups // seen)
    assert sampling.steps_of(3, parts, epochs=160, batch=seen) == 3


def test_balanced_epochs_draw_the_smaller_categories_anew() -> None:
    small, large = np.arange(3), np.arange(3, 13)
    group = [small, large]
    assert sampling.epoch_images([group]) == 20
    epochs = images([group], size=20, steps=6)
    for epoch in epochs:
        assert Counter(epoch[epoch >= 3].tolist()) == Counter(large.tolist())
        counts = Counter(epoch[epoch < 3].tolist())
        assert sorted(counts.values()) == [3, 3, 4]  # as evenly as can be
    # Not the same image is the one that comes once more, and the categories are mixed.
    more = {Counter(epoch[epoch < 3].tolist()).most_common(1)[0][0] for epoch in epochs}
    assert len(more) > 1
    assert any(np.any(epoch[:10] < 3) and np.any(epoch[:10] >= 3) for epoch in epochs)


def test_categories_of_very_different_sizes_fill_up_by_other_images() -> None:
    # Ten of a hundred images fit into an epoch of eleven: other ones in every epoch.
    group = [np.arange(11), np.arange(11, 15)]
    epochs = images([group], size=22, steps=4)
    filled = [tuple(epoch[epoch >= 11].tolist()) for epoch in epochs]
    assert len(set(filled)) == 4


def test_positions_are_drawn_from_all_of_a_group() -> None:
    group = np.asarray([4, 7, 9])
    drawn = positions([[group]], size=3000, steps=1)[0]
    assert set(drawn // 10) == {4, 7, 9}
    assert set(drawn % 10) == set(range(10))
    assert len(set(drawn.tolist())) == 30
    # Balanced: each part as often as the other, whatever their sizes.
    drawn = positions([[np.asarray([4]), np.arange(10, 19)]], size=3000, steps=1)[0] // 10
    assert abs(np.mean(drawn == 4) - 0.5) < 0.05
    assert set(drawn.tolist()) == {4, *range(10, 19)}


def test_no_subclass_is_held_out_whole() -> None:
    options: Any = {"holdout": 0.9, "balanced": False, "seed": 0}
    held, groups = split(Subclasses(("a", "b"), np.asarray([0, 1, 0, 0])), [""] * 4, **options)
    assert [len(part) for group in groups for part in group] == [1, 1]
    assert sorted([*held, *np.concatenate([*groups[0], *groups[1]])]) == [0, 1, 2, 3]
    held, groups = split(one_for_all(10), [""] * 10, **options)
    assert (len(held), len(groups[0][0])) == (9, 1)


def test_the_seed_decides_what_is_held_out() -> None:
    every = [split(one_for_all(30), [""] * 30, holdout=0.2, balanced=False, seed=s) for s in (0, 1)]
    assert [len(held) for held, _ in every] == [6, 6]
    assert every[0][0].tolist() != every[1][0].tolist()
    assert every[0][0].tolist() != list(range(6))


def test_a_group_s_categories_are_its_parts_where_balanced() -> None:
    categories = ["a", "b", "a", "b", "b"]
    kinds = Subclasses(("x", "y"), np.asarray([0, 0, 0, 1, 1]))
    for balanced, want in ((True, [[[0, 2], [1]], [[3, 4]]]), (False, [[[0, 1, 2]], [[3, 4]]])):
        _, groups = split(kinds, categories, holdout=0.0, balanced=balanced, seed=0)
        assert [[part.tolist() for part in group] for group in groups] == want


def test_arrays_are_taken_in_turn() -> None:
    together = in_turn([np.asarray([0, 2, 4]), np.asarray([1, 3, 5])])
    assert together.tolist() == [0, 1, 2, 3, 4, 5]
