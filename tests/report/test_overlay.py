"""Drawings at a photo's own size: strips do not show, maps grow as Pillow resizes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from jaxad.report import overlay as module
from jaxad.report.colour import OUTLINE
from jaxad.report.overlay import draw_mask, draw_overlay, map_at, write_map


def test_a_map_grows_bilinearly() -> None:
    small = np.asarray([[0.0, 1.0], [2.0, 3.0]], np.float32)
    large = map_at(small, (4, 8))
    assert large.shape == (4, 8)
    assert large.dtype == np.float32
    np.testing.assert_allclose(large[0, :4], [0, 0, 0.125, 0.375], atol=1e-6)
    assert (large[0, 0], large[-1, -1]) == (0, 3)
    np.testing.assert_array_equal(map_at(small, (2, 2)), small)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_strips_do_not_show(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (37, 20, 3), np.uint8)).convert(mode)
    scores = map_at(rng.normal(size=(5, 5)).astype(np.float32), (37, 20))

    def draw() -> np.ndarray:
        data = draw_overlay(photo, scores, limit=0.5, colours=(0.0, 1.0))
        return np.asarray(Image.open(io.BytesIO(data)))

    whole = draw()
    monkeypatch.setattr(module, "_STRIP", 60)
    np.testing.assert_array_equal(draw(), whole)
    assert whole.shape == (37, 20, 3)


def test_what_is_above_the_limit_is_outlined() -> None:
    scores = np.zeros((32, 32), np.float32)
    scores[8:24, 8:24] = 1
    data = draw_overlay(Image.new("RGB", (32, 32)), scores, limit=0.5, colours=(0.0, 1.0))
    drawn = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    assert np.abs(drawn[7, 10:20] - OUTLINE.astype(int)).mean() < 60
    assert drawn[0, 0].max() < 40
    mask = np.asarray(Image.open(io.BytesIO(draw_mask(scores, 0.5))))
    np.testing.assert_array_equal(mask, (scores > 0.5) * 255)


def test_a_map_is_read_back() -> None:
    scores = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    with np.load(io.BytesIO(write_map(scores)), allow_pickle=False) as found:
        np.testing.assert_array_equal(found["map"], scores)
