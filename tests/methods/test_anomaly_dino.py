"""AnomalyDINO: cosines by hand, the foreground by NumPy and SciPy, a tiny transformer's patches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import quick
from scipy import ndimage
from small_transformer import transformer

from jaxad.config import load_file
from jaxad.core import InputError
from jaxad.methods.anomaly_dino import directions, foreground
from jaxad.methods.patchcore import patchcore
from jaxad.recipes.anomaly_dino import patched
from jaxad.recipes.build import recipe_named

SQUARE = np.ones((3, 3))


def judged(x: Any, bank: Any, part: Any = None, **options: Any) -> Any:
    """Scores of patches `(B, h, w, C)` by a bank `(N, C)`, as the recipe puts them together."""
    weight = "" if part is None else "part"
    method = patchcore("x", sampler="random", share=1.0, smoothing=0.0, weight=weight, **options)
    variables = {"bank": {"members": directions(np.asarray(bank, np.float32))}}
    found = {"x": directions(np.asarray(x, np.float32)), "part": part}
    size = found["x"].shape[1:3]
    return quick.score(method, variables, found, size=size)


def test_a_patch_has_one_minus_the_cosine_to_the_nearest() -> None:
    bank = [[2, 0], [0, 3]]
    x = np.array([[[5.0, 0], [1, 1]], [[-4, 0], [-3, 4]]])
    found = judged(x[None], bank)
    want = [[0, 1 - 0.5**0.5], [1, 1 - 0.8]]
    np.testing.assert_allclose(found.map[0], want, atol=1e-6)
    np.testing.assert_allclose(found.image, [1.0], atol=1e-6)
    halves = judged(x[None], bank, top_share=0.5)
    np.testing.assert_allclose(halves.image, [(1 + 1 - 0.5**0.5) / 2], atol=1e-6)


def test_a_photo_has_the_mean_of_its_highest_hundredth() -> None:
    """Of 20 x 20 patches four count."""
    angle = np.linspace(0, np.pi / 2, 400)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=-1).reshape(1, 20, 20, 2)
    found = judged(x, [[1, 0]], top_share=0.01)
    np.testing.assert_allclose(found.image, [np.mean(1 - np.cos(angle[-4:]))], rtol=1e-5)


def test_the_background_has_no_score() -> None:
    x = np.array([[[[0.0, 1], [1, 1]]]])
    part = np.array([[[[0.0], [1]]]], np.float32)
    found = judged(x, [[1, 0]], part)
    np.testing.assert_allclose(found.map[0], [[0, 1 - 0.5**0.5]], atol=1e-6)
    np.testing.assert_allclose(found.image, [1 - 0.5**0.5], atol=1e-6)


def by_numpy(image: np.ndarray, threshold: float) -> np.ndarray:
    """The part of `(h, w, C)`, by a singular value decomposition and SciPy's morphology."""
    h, w, channels = image.shape
    flat = image.reshape(-1, channels).astype(np.float64)
    flat -= flat.mean(axis=0)
    component = (flat @ np.linalg.svd(flat, full_matrices=False)[2][0]).reshape(h, w)
    sides = [component > threshold, -component > threshold]
    middle = (slice(int(h * 0.2), int(h * 0.8)), slice(int(w * 0.2), int(w * 0.8)))
    part = max(sides, key=lambda side: side[middle].sum())
    part = ndimage.binary_dilation(ndimage.binary_dilation(part, SQUARE), SQUARE)
    return ndimage.binary_erosion(part, SQUARE, border_value=1)


def scene(seed: int, box: tuple[slice, slice], sign: float) -> np.ndarray:
    """A part in a box, with holes, on another ground; a far patch in a corner."""
    draw = np.random.default_rng(seed)
    axis = draw.normal(size=8)
    axis *= sign * 20 / np.linalg.norm(axis)
    image = draw.normal(size=(12, 15, 8))
    image[box] += axis
    image[6, 7] -= axis  # a hole
    image[0, 14] += axis
    return image.astype(np.float32)


def test_the_foreground_is_the_side_that_the_middle_is_on() -> None:
    boxes = ((slice(3, 9), slice(4, 11)), (slice(2, 9), slice(0, 12)))
    x = np.stack([scene(n, box, sign) for n, box in enumerate(boxes) for sign in (1, -1)])
    found = np.asarray(quick.jit(lambda x: foreground(x, threshold=5.0))(x))
    assert found.shape == (4, 12, 15, 1)
    for own, image in zip(found[..., 0], x):
        want = by_numpy(image, 5.0)
        np.testing.assert_array_equal(own, want)
        assert own[6, 7] == 1  # the hole is closed
        assert own[11, 0] == 0
        assert 0.2 < own.mean() < 0.9
    # By hand: a box of 6 x 7 grows by one patch on each side, the corner's patch to 2 x 2.
    want = np.zeros((12, 15))
    want[2:10, 3:12], want[:2, 13:] = 1, 1
    np.testing.assert_array_equal(found[0, ..., 0], want)


def test_photos_without_a_part_have_none() -> None:
    flat = np.ones((1, 6, 6, 4), np.float32)
    noise = np.random.default_rng(0).normal(size=(1, 6, 6, 4)).astype(np.float32)
    found = quick.jit(lambda x: foreground(x, threshold=10.0))(np.concatenate([flat, noise]))
    np.testing.assert_array_equal(found, np.zeros((2, 6, 6, 1)))


def test_it_reads_the_last_block_after_its_norm() -> None:
    plain, variables = transformer(("norm",))
    network, own = patched(plain, variables, foreground=0.1)
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 8, 3), np.uint8)
    raw, found = quick.jit(lambda x: (plain.features(variables, x), network.features(own, x)))(
        images
    )
    raw = raw["norm"]
    assert {name: (x.shape, network.levels[name]) for name, x in found.items()} == {
        "patches": ((2, 3, 2, 8), (8, 4)),
        "part": ((2, 3, 2, 1), (1, 4)),
    }
    length = np.linalg.norm(raw, axis=-1, keepdims=True)
    np.testing.assert_allclose(found["patches"], raw / length * 0.5**0.5, atol=1e-6)
    part = quick.jit(lambda x: foreground(x, threshold=0.1))(raw)
    np.testing.assert_array_equal(found["part"], part)

    with pytest.raises(InputError, match="do not divide into tiny's patches of 4 x 4"):
        network.features(own, np.zeros((1, 13, 8, 3), np.uint8))


def test_configurations_are_the_authors() -> None:
    sizes = {}
    for setting in ("reference", "fine"):
        config = load_file(f"anomaly_dino:{setting}")
        m = config.method
        assert (m.backbone, m.levels, m.foreground) == ("dinov2_vits14", ("norm",), 0.0)
        assert (m.share, m.neighbours, m.top_share, m.smoothing) == (1.0, 1, 0.01, 4.0)
        assert not config.data.resize  # the network's own, bicubic
        sizes[setting] = config.data.image_size
        method, phases = recipe_named("anomaly_dino").method(config, {})
        assert not phases
        assert method.grows == {"bank"}
    assert sizes == {"reference": (448, 448), "fine": (672, 672)}
    with pytest.raises(InputError, match="settings are reference, fine"):
        load_file("anomaly_dino:other")
