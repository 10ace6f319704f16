"""Photos changed at random: by place alone, and only as asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxad.data.augment import KINDS, SHIFT, augmented, check_kinds
from jaxad.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)


def changed(kinds: Any, images: np.ndarray = IMAGES, **at: Any) -> np.ndarray:
    values = {"seed": 888, "phase": "all", "step": 3, "places": range(len(images))}
    return augmented(images, kinds, **{**values, **at})


def variants(image: np.ndarray, kind: str) -> list[np.ndarray]:
    """All that one kind may make of a photo."""
    most = int(SHIFT * 32)
    padded = np.pad(image, ((most, most), (most, most), (0, 0)), mode="reflect")
    places = [(y, x) for y in range(2 * most + 1) for x in range(2 * most + 1)]
    return {
        "mirror": [image, image[:, ::-1]],
        "flip": [image, image[::-1]],
        "turn": [np.rot90(image, n) for n in range(4)],
        "shift": [padded[y : y + 32, x : x + 32] for y, x in places],
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_makes_all_of_its_variants_and_nothing_else(kind: str) -> None:
    found = changed([kind])
    assert (found.shape, found.dtype) == (IMAGES.shape, np.uint8)
    met = set()
    for image, own in zip(IMAGES, found):
        every = variants(image, kind)
        (which,) = [n for n, other in enumerate(every) if np.array_equal(own, other)]
        met.add(which)
    assert len(met) > 0.7 * len(every)


def test_nothing_is_changed_unasked() -> None:
    np.testing.assert_array_equal(changed([]), IMAGES)


def test_what_is_drawn_goes_by_place_and_nothing_else() -> None:
    every = changed(KINDS)
    np.testing.assert_array_equal(changed(KINDS), every)
    # A share of the batch, as a process of several has it.
    np.testing.assert_array_equal(changed(KINDS, IMAGES[16:32], places=range(16, 32)), every[16:32])
    for other in ({"seed": 889}, {"phase": "other"}, {"step": 4}, {"places": range(64, 128)}):
        assert (changed(KINDS, **other) != every).mean() > 0.5


def test_quarter_turns_are_for_squares() -> None:
    check_kinds(KINDS, (32, 32))
    check_kinds(("mirror", "flip", "shift"), (32, 48))
    with pytest.raises(InputError, match=r"'turn', and photos of 32 x 48 are no squares"):
        check_kinds(("turn",), (32, 48))
