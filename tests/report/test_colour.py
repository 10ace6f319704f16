import numpy as np
import pytest

from jaxad.report.colour import OUTLINE, colour_map, colour_range, outline, overlay


def test_colours_grow_lighter_and_stay_away_from_the_outline() -> None:
    colours = colour_map(np.linspace(0, 1, 256)).astype(float)
    linear = (colours / 255) ** 2.2
    assert (np.diff(linear @ [0.2126, 0.7152, 0.0722]) > 0).all()
    assert np.linalg.norm(colours - OUTLINE, axis=1).min() > 100


def test_scale_is_the_category_s_and_not_the_photo_s() -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(4, 64, 64)).astype(np.float32)
    maps[3, :32] += 10
    low, high = colour_range(maps, [0, 0, 0, 1])
    assert np.mean(maps[:3] > low) == pytest.approx(0.05, abs=0.001)
    assert np.mean(maps > high) == pytest.approx(0.001, abs=0.0003)
    maps[0, 5, 5] = 1e6  # a stray pixel
    assert colour_range(maps, [0, 0, 0, 1])[1] == pytest.approx(high, rel=0.01)
    grey = np.full((64, 64, 3), 128, np.uint8)
    quiet = overlay(grey, maps[1], (low, high))
    assert np.ptp(quiet.astype(int), axis=-1).max() < 110  # a good photo does not glow
    glow = overlay(grey, maps[3], (low, high))
    assert np.ptp(glow[:32].astype(int), axis=-1).mean() > 110
    # The same score has the same colour in every photo.
    one, two = maps[1].copy(), maps[3].copy()
    one[0, 0] = two[0, 0] = (low + high) / 2
    np.testing.assert_array_equal(
        overlay(grey, one, (low, high))[0, 0], overlay(grey, two, (low, high))[0, 0]
    )


@pytest.mark.parametrize("labels", [[0, 0], [1, 1]])
def test_scale_with_one_class(labels: list[int]) -> None:
    low, high = colour_range(np.linspace(0, 1, 2 * 32 * 32).reshape(2, 32, 32), labels)
    assert (low, high) == pytest.approx((0.95, 0.999), abs=1e-3)


def test_degenerate_scales() -> None:
    assert colour_range(np.zeros((0, 4, 4), np.float32), []) == (0.0, 0.0)
    photo = np.full((4, 4, 3), 200, np.uint8)
    flat = np.ones((4, 4), np.float32)
    low_high = colour_range(flat[None], [0])
    np.testing.assert_array_equal(overlay(photo, flat, low_high), 130)  # bare, dimmed photo


def test_percentiles_of_many_pixels_see_every_column() -> None:
    maps = np.zeros((200, 256, 256), np.float16)
    maps[:, :, 7] = 1  # one column in 256, 0.4 % of the pixels
    assert colour_range(maps, np.zeros(200)) == (0.0, 1.0)


def test_outline_runs_around_the_mask() -> None:
    photo = np.zeros((7, 7, 3), np.uint8)
    mask = np.zeros((7, 7), bool)
    mask[3, 3] = True
    traced = outline(photo, mask)
    ring = (traced == OUTLINE).all(axis=-1)
    assert ring.sum() == 8
    assert ring[2:5, 2:5].sum() == 8
    assert not ring[3, 3]
    assert not photo.any()
    np.testing.assert_array_equal(outline(photo, np.ones((7, 7), bool)), photo)
