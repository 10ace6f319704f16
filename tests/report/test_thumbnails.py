import base64
import io

import numpy as np
import pytest
from PIL import Image

from jaxad.report import Example
from jaxad.report.thumbnails import thumbnails


def decoded(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"), validate=True)
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_no_defect_vanishes_in_a_thumbnail(at: int) -> None:
    mask = np.zeros((1024, 512), bool)
    mask[400 + at, 300 + at] = True  # one of the 4 × 4 pixels that make one pixel of the thumbnail
    photo = np.full((1024, 512, 3), 100, np.uint8)
    flat = np.zeros((64, 32), np.float32)
    for uri in thumbnails(Example("a", 1, photo, flat, mask, 0.0), (0.0, 1.0)):
        pixels = decoded(uri)
        assert pixels.shape == (256, 128, 3)
        blue = np.argwhere(pixels[..., 2] - pixels[..., 0] > 60)
        assert (blue.min(axis=0), blue.max(axis=0)) == (
            pytest.approx([99, 74]),
            pytest.approx([101, 76]),
        )


def test_small_photos_are_not_blown_up_and_slim_ones_do_not_vanish() -> None:
    for size, expected in (((20, 30), (20, 30)), ((2000, 3), (256, 1))):
        photo = np.zeros((*size, 3), np.uint8)
        example = Example("a", 0, photo, np.zeros((8, 8), np.float32), None, 0.0)
        assert decoded(thumbnails(example, (0.0, 1.0))[0]).shape[:2] == expected


def test_a_photo_of_noise_has_one() -> None:
    """As of a fine texture: its file is larger than a byte a pixel."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    flat = np.zeros((8, 8), np.float32)
    assert decoded(thumbnails(Example("a", 0, noise, flat, None, 0.0), (0.0, 1.0))[0]).std() > 50


def test_heat_lies_where_the_scores_are_high() -> None:
    photo = np.full((64, 64, 3), 128, np.uint8)
    scores = np.zeros((16, 16), np.float32)
    scores[4:8, 8:12] = 5
    heat = decoded(thumbnails(Example("a", 0, photo, scores, None, 0.0), (1.0, 4.0))[1])
    colourful = np.ptp(heat, axis=-1) > 40
    rows, columns = np.nonzero(colourful)
    assert 14 <= rows.min() <= 18 <= 30 <= rows.max() <= 34
    assert 30 <= columns.min() <= 34 <= 46 <= columns.max() <= 50


def test_colours_are_those_of_the_category() -> None:
    photo, scores = np.full((64, 64, 3), 128, np.uint8), np.zeros((16, 16), np.float32)
    scores[4:8, 8:12] = 5
    example = Example("a", 0, photo, scores, None, 0.0)
    colourful = [
        np.ptp(decoded(thumbnails(example, colours)[1]), axis=-1).max() > 40
        for colours in ((1.0, 6.0), (10.0, 20.0))
    ]
    assert colourful == [True, False]  # the highest score of a good photo stays grey
