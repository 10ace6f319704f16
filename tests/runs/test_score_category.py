"""One category scored as a stream, with a detector that knows nothing but brightness."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxad.core import InputError, Scores
from jaxad.data.decode import decode_image, decode_mask
from jaxad.data.layouts import load_dataset
from jaxad.data.manifest import Manifest
from jaxad.data.reading import Reading
from jaxad.data.synthetic import write_dataset
from jaxad.metrics import category_metrics, pixel_metrics
from jaxad.report import select_examples
from jaxad.runs.score_category import Scored, score_category

SIZE = (40, 48)


@pytest.fixture(scope="module")
def test_set(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = tmp_path_factory.mktemp("data") / "parts"
    write_dataset(
        root, categories=("disc",), n_train=1, n_test_good=5, n_test_bad=6, size=(48, 48), seed=0
    )
    return load_dataset("mvtec_ad", str(root)).select("disc", "test")


def brightness(images: Any) -> Scores:
    maps = np.asarray(images).mean(axis=-1, dtype=np.float32)
    return Scores(image=maps.std(axis=(1, 2)), map=maps)


def scored(
    data: Manifest, score: Any = brightness, *, batch_size: int = 4, examples: int = 2
) -> Scored:
    return score_category(
        "disc",
        data.records,
        data.root,
        score,
        reading=Reading(SIZE, "lanczos"),
        batch_size=batch_size,
        examples=examples,
        n_train=7,
    )


def arrays(data: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """All images and masks at once."""
    images = [decode_image(data.root, r, size=SIZE) for r in data.records]
    masks = np.zeros((len(images), *SIZE), bool)
    for mask, record in zip(masks, data.records):
        if record.mask:
            mask[:] = decode_mask(data.root, record, size=SIZE, image_size=(48, 48))
    return np.stack(images), masks


@pytest.mark.parametrize("batch_size", [1, 4, 16])  # one, with padding, all in one
def test_a_stream_measures_and_shows_what_the_whole_would(
    test_set: Manifest, batch_size: int
) -> None:
    images, masks = arrays(test_set)
    every = brightness(images)
    labels = np.array([not r.is_good for r in test_set.records], int)
    found = scored(test_set, batch_size=batch_size)
    pixel = pixel_metrics(masks, every.map)
    assert found.metrics == category_metrics(labels, every.image, pixel, n_train=7)
    assert 0 < found.metrics["pixel_auroc"] < 1
    chosen = select_examples(labels, every.image, 2)
    for shown, indices in zip((found.view.defects, found.view.missed, found.view.normal), chosen):
        assert [e.name for e in shown] == [test_set.records[i].path for i in indices]
        for example, i in zip(shown, indices):
            np.testing.assert_array_equal(example.image, images[i])
            np.testing.assert_array_equal(example.map, every.map[i])
            np.testing.assert_array_equal(example.mask, masks[i])
    assert found.steady[0] == {1: 10, 4: 7, 16: 11}[batch_size]
    assert 0 < found.steady[1] <= found.seconds


def test_unknown_masks_are_told_and_left_out(
    test_set: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [r._replace(mask="") if n % 2 else r for n, r in enumerate(test_set.records)]
    data = Manifest(test_set.root, tuple(records))
    known = np.array([r.is_good or bool(r.mask) for r in data.records])
    found = scored(data)
    assert f"{np.sum(~known)} of 6 defective images have no mask" in capsys.readouterr().err
    images, masks = arrays(data)
    pixel = pixel_metrics(masks[known], brightness(images).map[known])
    assert {key: found.metrics[key] for key in pixel} == pixel
    assert found.metrics["n_test"] == 11
    shown = {e.name: e.mask for e in (*found.view.defects, *found.view.missed)}
    assert len(shown) == 4
    for record, told in zip(data.records, known):
        if record.path in shown:
            assert (shown[record.path] is not None) == told


def test_a_score_that_is_not_finite_names_the_photo(test_set: Manifest) -> None:
    def broken(images: Any) -> Scores:
        every = brightness(images)
        every.map[1, 3, 3] = np.nan
        return every

    with pytest.raises(InputError, match=f"score of {test_set.records[1].path} is not finite"):
        scored(test_set, broken)


def test_an_empty_mask_of_a_defective_image_is_not_shown(
    test_set: Manifest, tmp_path: Path
) -> None:
    """It counts as all normal, but is the outline of nothing."""
    shutil.copytree(test_set.root, tmp_path / "parts")
    data = Manifest(tmp_path / "parts", test_set.records)
    bad = [r for r in data.records if r.mask]
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(data.root / bad[0].root / bad[0].mask)
    view = scored(data, batch_size=16, examples=len(bad)).view
    masks = {e.name: e.mask for e in (*view.defects, *view.missed)}
    assert {name for name, mask in masks.items() if mask is None} == {bad[0].path}
    assert len(masks) == len(bad)
    assert all(e.mask is not None and not e.mask.any() for e in view.normal)
