import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxad.data.images import decode_mask, read_header
from jaxad.data.layouts import load_dataset
from jaxad.data.synthetic import DEFECTS, draw_part, write_dataset
from jaxad.errors import InputError


def digests(root: Path) -> dict[str, str]:
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in root.rglob("*")
        if p.is_file()
    }


def test_a_sound_dataset_is_written(tmp_path: Path) -> None:
    written = write_dataset(
        tmp_path, categories=("x", "y"), n_train=5, n_test_good=2, n_test_bad=4, size=(48, 64)
    )
    manifest = load_dataset("mvtec_ad", tmp_path)
    assert manifest == written
    assert manifest.counts() == {
        (c, *rest): n
        for c in ("x", "y")
        for rest, n in {
            ("test", "good"): 2,
            ("test", "missing_piece"): 1,
            ("test", "scratch"): 2,
            ("test", "spot"): 1,
            ("train", "good"): 5,
        }.items()
    }
    for r in manifest.records:
        assert read_header(tmp_path / r.path) == ("RGB", (48, 64))
        assert bool(r.mask) != r.is_good
        if r.mask:
            share = decode_mask(tmp_path / r.mask, size=(48, 64)).mean()
            assert 0 < share < 0.3
    # No two photos are the same.
    assert len(set(digests(tmp_path).values())) == len(digests(tmp_path))


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    options = {
        "categories": ("x",),
        "n_train": 2,
        "n_test_good": 1,
        "n_test_bad": 3,
        "size": (32, 32),
    }
    for name, seed in {"a": 1, "b": 1, "c": 2}.items():
        write_dataset(tmp_path / name, seed=seed, layout="manifest", **options)
    assert digests(tmp_path / "a") == digests(tmp_path / "b") != digests(tmp_path / "c")
    assert len(load_dataset("manifest", tmp_path / "a")) == 6


@pytest.mark.parametrize("name", DEFECTS)
@pytest.mark.parametrize("look", [0, 1])
def test_defects_change_what_their_mask_says_and_nothing_else(name: str, look: int) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        picture, part = draw_part(rng, look=look, size=(40, 56))
        assert 0.1 < part.mean() < 0.9
        damaged, mask = DEFECTS[name](rng, picture, part)
        assert mask.any()
        assert not (mask & ~part).any()
        changed = np.abs(damaged - picture).max(axis=2) > 0
        assert not (changed & ~mask).any()
        assert (changed & mask).sum() > 0.9 * mask.sum()


def test_subclasses_look_different(tmp_path: Path) -> None:
    counts = {"n_train": 3, "n_test_good": 1, "n_test_bad": 2}
    written = write_dataset(
        tmp_path,
        layout="texture_ad",
        categories=("cloth",),
        subclasses=("red", "wool"),
        size=(32, 40),
        **counts,
    )
    assert load_dataset("texture_ad", tmp_path) == written
    kinds = [(r.subclass, r.split, r.is_good) for r in written.records]
    assert [kinds.count(("wool", *rest)) for rest in (("train", True), ("test", True))] == [3, 1]
    assert [kinds.count((s, "test", False)) for s in ("red", "wool")] == [2, 2]
    assert all(bool(r.mask) != r.is_good for r in written.records)
    colours = {
        name: np.stack(
            [
                np.asarray(Image.open(tmp_path / r.path)).mean(axis=(0, 1))
                for r in written.records
                if r.subclass == name and r.split == "train"
            ]
        )
        for name in ("red", "wool")
    }
    between = np.abs(colours["red"].mean(axis=0) - colours["wool"].mean(axis=0)).max()
    assert between > 2 * max(c.std(axis=0).max() for c in colours.values())


def test_unusable_arguments(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no layout 'visa'"):
        write_dataset(tmp_path, layout="visa")
    with pytest.raises(InputError, match="too small"):
        write_dataset(tmp_path, size=(8, 32))


def test_masks_are_black_and_white(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, n_train=1, n_test_good=0, n_test_bad=3, size=(24, 24))
    masks = [r.mask for r in manifest.records if r.mask]
    assert len(masks) == 6
    for name in masks:
        assert set(np.unique(Image.open(tmp_path / name))) == {0, 255}
