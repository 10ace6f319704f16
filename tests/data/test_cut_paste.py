"""Defects made of good photos."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxad.data.cut_paste import cut_paste


@given(st.integers(32, 96), st.integers(32, 96), st.integers(0, 10**6))
def test_only_what_the_mask_says_is_changed(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    before = image.copy()
    pasted, mask = cut_paste(image, np.random.default_rng(seed))
    np.testing.assert_array_equal(image, before)
    assert pasted.shape == image.shape
    assert pasted.dtype == np.uint8
    assert mask.shape == image.shape[:2]
    assert 0 < mask.mean() < 0.3
    np.testing.assert_array_equal(pasted[~mask], image[~mask])
    assert (pasted[mask] != image[mask]).any(-1).mean() > 0.5
    again, same = cut_paste(image, np.random.default_rng(seed))
    np.testing.assert_array_equal(again, pasted)
    np.testing.assert_array_equal(same, mask)


def test_a_piece_keeps_the_light_of_its_photo() -> None:
    image = np.full((64, 64, 3), 100, np.uint8)
    image[:, ::2] = 140
    seen = [cut_paste(image, np.random.default_rng(n)) for n in range(50)]
    means = [pasted[mask].mean() for pasted, mask in seen]
    assert 100 < min(means) < max(means) < 140
    areas = np.asarray([mask.mean() for _, mask in seen])
    assert 15 < (areas > 0.019).sum() < 35  # both kinds
    assert areas.min() < 0.01


@pytest.mark.parametrize("seed", range(3))
def test_grey_stays_grey(seed: int) -> None:
    grey = np.random.default_rng(seed).integers(0, 256, (64, 64, 1)).astype(np.uint8)
    pasted, _ = cut_paste(np.repeat(grey, 3, axis=-1), np.random.default_rng(seed))
    assert (np.ptp(pasted.astype(int), axis=-1) == 0).all()
