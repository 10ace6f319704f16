"""Layouts on disk to manifests: real datasets, made-up ones, and every refusal."""

import importlib.util
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxad.data import prepared
from jaxad.data.check import describe, require_readable
from jaxad.data.images import read_header
from jaxad.data.layouts import LAYOUTS, guess_layout, load_dataset, scan_dataset
from jaxad.data.left_out import left_out
from jaxad.data.manifest import Manifest, Record, read_csv, validate, write_csv
from jaxad.data.pipeline import batches
from jaxad.data.write_prepared import write_prepared
from jaxad.errors import InputError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
needs_elpv = pytest.mark.skipif(
    importlib.util.find_spec("elpv_dataset") is None, reason="elpv-dataset is not installed"
)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def refusal(layout: str, root: str | Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        load_dataset(layout, root, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


def summary(manifest: Manifest) -> dict[tuple[str, str], int]:
    return dict(Counter((r.split, r.label) for r in manifest.records))


@needs_shared
def test_real_bottle() -> None:
    manifest = load_dataset("mvtec_ad", SHARED / "mvtec_ad_256", categories=("bottle",))
    assert summary(manifest) == {
        ("train", "good"): 209,
        ("test", "good"): 20,
        ("test", "broken_large"): 20,
        ("test", "broken_small"): 22,
        ("test", "contamination"): 21,
    }
    assert all(bool(r.mask) != r.is_good for r in manifest.records)
    for r in manifest.records:
        if r.mask:
            assert Path(r.mask).stem == Path(r.path).stem + "_mask"
            assert Path(r.mask).parent.name == r.label


@needs_shared
def test_real_tiles() -> None:
    manifest = load_dataset("manifest", SHARED / "magnetic_tile")
    assert len(manifest) == 1344
    assert summary(manifest) == {
        ("train", "good"): 775,
        ("test", "good"): 177,
        ("test", "blowhole"): 115,
        ("test", "break"): 85,
        ("test", "crack"): 57,
        ("test", "fray"): 32,
        ("test", "uneven"): 103,
    }
    assert manifest.subclasses == tuple(f"exp{i}" for i in range(7))
    assert load_dataset("manifest", SHARED / "magnetic_tile" / "manifest.csv") == manifest


@needs_elpv
def test_real_cells() -> None:
    manifest = load_dataset("elpv", "")
    assert manifest.categories == ("mono", "poly")
    assert summary(manifest.select("mono")) == {
        ("train", "good"): 470,
        ("test", "good"): 118,
        ("test", "defect_0.33"): 117,
        ("test", "defect_0.67"): 56,
        ("test", "defect_1.00"): 313,
    }
    assert summary(manifest.select("poly")) == {
        ("train", "good"): 736,
        ("test", "good"): 184,
        ("test", "defect_0.33"): 178,
        ("test", "defect_0.67"): 50,
        ("test", "defect_1.00"): 402,
    }
    assert not any(r.mask for r in manifest.records)
    assert read_header(manifest.root / manifest.records[0].path) == ("L", (300, 300))
    assert load_dataset("elpv", manifest.root) == manifest
    assert load_dataset("elpv", manifest.root.parent) == manifest
    assert load_dataset("elpv", "", categories=("poly",)) == manifest.select("poly")


def test_cells_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install elpv-dataset" in refusal("elpv", "")
    assert "holds no labels.csv" in refusal("elpv", tmp_path)


@pytest.mark.parametrize("line", ["x.png 0.5 mono", "x.png 2 mono", "x.png mono", "x.png nan mono"])
def test_cells_of_another_form(tmp_path: Path, line: str) -> None:
    (tmp_path / "labels.csv").write_text(f"a.png 0.0 mono\n{line}\n")
    message = refusal("elpv", tmp_path)
    assert "labels.csv: line 2 is not" in message


def test_mvtec_tree(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "license.txt",
        "b/train/good/000.PNG",
        "b/train/good/readme.txt",
        "b/train/good/.hidden.png",
        "b/test/good/000.png",
        "b/test/cut/002.jpeg",
        "b/test/cut/001.tif",
        "b/test/cut/003.bmp",
        "b/ground_truth/cut/001_mask.png",
        "b/ground_truth/cut/002.png",
        "a/train/good/000.jpg",
        "a/test/Normal/000.JPG",
        "a/ground_truth/Normal/000_mask.png",
    )
    manifest = load_dataset("mvtec_ad", tmp_path)
    cut = "b/ground_truth/cut/"
    assert manifest.records == (
        Record("a/train/good/000.jpg", "a", "", "train", "good"),
        Record("a/test/Normal/000.JPG", "a", "", "test", "good"),
        Record("b/train/good/000.PNG", "b", "", "train", "good"),
        Record("b/test/cut/001.tif", "b", "", "test", "cut", cut + "001_mask.png"),
        Record("b/test/cut/002.jpeg", "b", "", "test", "cut", cut + "002.png"),
        Record("b/test/cut/003.bmp", "b", "", "test", "cut"),
        Record("b/test/good/000.png", "b", "", "test", "good"),
    )


def test_masks_of_one_name_belong_to_their_own_defect(tmp_path: Path) -> None:
    names = ["a/train/good/0.png"]
    for defect in ("cut", "hole"):
        names += [f"a/test/{defect}/000.png", f"a/ground_truth/{defect}/000_mask.png"]
    touch(tmp_path, *names, "a/test/scratch/000.png")
    masks = {r.label: r.mask for r in load_dataset("mvtec_ad", tmp_path).records}
    assert masks == {
        "good": "",
        "cut": "a/ground_truth/cut/000_mask.png",
        "hole": "a/ground_truth/hole/000_mask.png",
        "scratch": "",
    }


def test_photos_of_one_name_can_not_share_a_mask(tmp_path: Path) -> None:
    touch(tmp_path, "a/train/good/0.png", "a/train/good/0.jpg", "a/test/cut/0.png")
    touch(tmp_path, "a/test/cut/0.jpg")
    assert len(load_dataset("mvtec_ad", tmp_path)) == 4
    touch(tmp_path, "a/ground_truth/cut/0_mask.png")
    message = refusal("mvtec_ad", tmp_path)
    assert message.startswith(f"{tmp_path / 'a/ground_truth/cut/0_mask.png'}: fits 2 images named")
    assert "rename or remove all but one" in message
    touch(tmp_path, "f/good/1.png", "f/bad/cut/0.png", "f/bad/cut/0.bmp", "f/masks/cut/0.png")
    assert "0.png: fits 2 images named 0 in" in refusal("folder", tmp_path / "f")


def box(path: Path, *corners: tuple[int, int]) -> None:
    """Save a mask that marks a square of 4 x 4 at each corner."""
    marked = np.zeros((24, 24), np.uint8)
    for row, column in corners:
        marked[row : row + 4, column : column + 4] = 7
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(marked).save(path)


LOCO = ("logical_anomalies", "structural_anomalies")


@pytest.mark.parametrize("layout", ["mvtec_ad", "folder", "texture_ad", "manifest"])
def test_several_masks_of_a_photo_count_together(tmp_path: Path, layout: str) -> None:
    """The folders of MVTec LOCO AD, in every layout; the union is what is judged."""
    top = {"folder": "", "texture_ad": "cloth/one/"}.get(layout, "box/")
    good = f"{top}good" if layout == "folder" else f"{top}train/good"
    bad, truth = ("bad", "masks") if layout == "folder" else (f"{top}test", f"{top}ground_truth")
    for place in (good, *(f"{bad}/{defect}" for defect in LOCO)):
        for number in range(2):
            box(tmp_path / place / f"{number}.png")
    for defect in LOCO:
        box(tmp_path / truth / defect / "0" / "a.png", (2, 2))
        box(tmp_path / truth / defect / "0" / "b.png", (2, 4), (18, 18))
        box(tmp_path / truth / defect / "1" / "000.png", (9, 9))
    if layout == "manifest":
        write_csv(load_dataset("mvtec_ad", tmp_path), tmp_path / "manifest.csv")
    manifest = load_dataset(layout, tmp_path)
    require_readable(manifest)
    assert [r.mask for r in manifest.records if not r.is_good] == [
        f"{truth}/{defect}/{number}" for defect in LOCO for number in range(2)
    ]
    expected = np.zeros((24, 24), np.bool_)
    expected[2:6, 2:8] = expected[18:22, 18:22] = True
    bad_ones = tuple(r for r in manifest.records if not r.is_good)
    options = {"image_size": (24, 24), "batch_size": 4}
    part = Manifest(manifest.root, bad_ones)
    (batch,) = batches(part, **options)
    np.testing.assert_array_equal(batch["mask"][0], expected)
    assert batch["mask"][1].sum() == 16
    assert left_out(manifest, layout=layout)[0].split(" are used; ")[0].endswith(" and 6 masks")
    # So it is where they are decoded once, and no file of them may change unnoticed.
    ready = write_prepared(part, tmp_path.with_name("out"), size=(24, 24))
    (same,) = batches(ready, **options)
    np.testing.assert_array_equal(same["mask"], batch["mask"])
    mask = tmp_path / bad_ones[0].mask / "b.png"
    os.utime(mask, ns=(0, 0))
    assert prepared.find(part, tmp_path.with_name("out"), size=(24, 24)) is None
    Image.new("L", (5, 6)).save(mask)
    with pytest.raises(InputError, match=r"b\.png: the mask is 5x6 pixels"):
        require_readable(manifest)
    mask.write_bytes(b"")
    assert f"{mask}: the file is empty" in describe(manifest)[0]
    mask.unlink()
    mask.symlink_to("/etc/hosts")
    with pytest.raises(InputError, match="links that leave this folder"):
        validate(manifest)
    shutil.rmtree(mask.parent)
    mask.parent.mkdir()
    with pytest.raises(InputError, match="1 files are missing"):
        validate(manifest)


def test_a_folder_of_masks_or_of_a_defect(tmp_path: Path) -> None:
    """`masks/scratch` is of the defect, though a photo is named scratch, too."""
    touch(tmp_path, "good/1.png", "bad/scratch.png", "bad/scratch/7.png", "masks/scratch/7.png")
    masks = {r.path: r.mask for r in load_dataset("folder", tmp_path).records}
    assert masks["bad/scratch.png"] == ""
    assert masks["bad/scratch/7.png"] == "masks/scratch/7.png"
    # What lies at the same place counts before what has the same name only.
    touch(tmp_path, "masks/7.png")
    masks = {r.path: r.mask for r in load_dataset("folder", tmp_path).records}
    assert masks["bad/scratch/7.png"] == "masks/scratch/7.png"
    # Where a file and a folder have the name, the file counts.
    touch(tmp_path, "a/train/good/0.png", "a/test/cut/0.png")
    touch(tmp_path, "a/ground_truth/cut/0.png", "a/ground_truth/cut/0/1.png")
    records = load_dataset("mvtec_ad", tmp_path).records
    assert records[-1].mask == "a/ground_truth/cut/0.png"


def test_mvtec_root_one_level_off(tmp_path: Path) -> None:
    touch(tmp_path, "top/bottle/train/good/0.png", "empty/x.txt")
    message = refusal("mvtec_ad", tmp_path)
    assert f"set data.root to {tmp_path / 'top'}, or data.layout to texture_ad" in message
    assert "the folder above it" in refusal("mvtec_ad", tmp_path / "top" / "bottle")
    assert "two folders higher" in refusal("mvtec_ad", tmp_path / "top" / "bottle" / "train")
    assert "no <category>/train" in refusal("mvtec_ad", tmp_path / "empty")
    assert "no such folder" in refusal("mvtec_ad", tmp_path / "absent")
    assert "data.root is empty" in refusal("mvtec_ad", "")


def test_mvtec_unusable(tmp_path: Path) -> None:
    touch(tmp_path, "a/train/good/0.png", "b/test/cut/0.png", "c/train/cut/0.png")
    (tmp_path / "d" / "train" / "good").mkdir(parents=True)
    message = refusal("mvtec_ad", tmp_path)
    assert "defective images in train" in message
    assert "'c/train/cut/0.png'" in message
    assert "no normal training images in category 'b'" in refusal(
        "mvtec_ad", tmp_path, categories=("a", "b")
    )
    assert "no category 'x', 'd': there are a, b, c" in refusal(
        "mvtec_ad", tmp_path, categories=("a", "x", "d")
    )
    # Only the categories that are asked for need to be complete.
    assert load_dataset("mvtec_ad", tmp_path, categories=("a",)).categories == ("a",)
    assert load_dataset("mvtec_ad", tmp_path, categories="a").categories == ("a",)
    touch(tmp_path, "lone/a/train/readme.txt")
    assert "has no images" in refusal("mvtec_ad", tmp_path / "lone")


def test_folder_of_photos(tmp_path: Path) -> None:
    root = tmp_path / "bolts"
    touch(root, *(f"good/{i}.jpg" for i in range(9)), "good/monday/9.jpg")
    normal_only = load_dataset("folder", root)
    assert summary(normal_only) == {("train", "good"): 8, ("test", "good"): 2}
    assert normal_only.categories == ("bolts",)
    touch(root, "bad/x.jpg", "bad/scratch/y.jpg", "bad/scratch/deep/z.jpg", "bad/dent/x.jpg")
    touch(root, "masks/scratch/y_mask.png", "masks/scratch/deep/z.png", "masks/dent/x.png")
    manifest = load_dataset("folder", root, category="m8")
    assert manifest.categories == ("m8",)
    # The held-out photos do not depend on what else is there.
    split = {r.path: r.split for r in manifest.records}
    assert all(split[r.path] == r.split for r in normal_only.records)
    assert {(r.path, r.label, r.mask) for r in manifest.records if not r.is_good} == {
        ("bad/x.jpg", "bad", ""),
        ("bad/scratch/y.jpg", "scratch", "masks/scratch/y_mask.png"),
        ("bad/scratch/deep/z.jpg", "scratch", "masks/scratch/deep/z.png"),
        ("bad/dent/x.jpg", "dent", "masks/dent/x.png"),
    }
    assert not any(r.mask for r in load_dataset("folder", root, masks="").records)


def test_folder_with_own_names(tmp_path: Path) -> None:
    touch(tmp_path, "ok/1.png", "ok/nok/2.png", "ok/later/3.png", "ok/m/2.png")
    manifest = load_dataset(
        "folder", tmp_path, normal="ok", normal_test="ok/later", abnormal="ok/nok", masks="ok/m"
    )
    assert [(r.path, r.split, r.label, r.mask) for r in manifest.records] == [
        ("ok/1.png", "train", "good", ""),
        ("ok/later/3.png", "test", "good", ""),
        ("ok/nok/2.png", "test", "nok", "ok/m/2.png"),
    ]
    everything = load_dataset("folder", tmp_path, normal=".", abnormal="ok/nok", masks="ok/m")
    assert {r.path for r in everything.records if r.is_good} == {"ok/1.png", "ok/later/3.png"}


def test_folder_unusable(tmp_path: Path) -> None:
    touch(tmp_path, "fine/1.png", "bad/a/1.png", "bad/b/1.png", "masks/1.png")
    message = refusal("folder", tmp_path)
    assert "no folder 'good' of normal photos (there are 'bad', 'fine', 'masks')" in message
    assert message.endswith(": name it by data.folder.normal")
    touch(tmp_path, "1.png", "2.png")
    message = refusal("folder", tmp_path)
    assert "no folder 'good' of normal photos, and 2 photos beside: move the" in message
    (tmp_path / "good").mkdir()
    assert "good: no images" in refusal("folder", tmp_path)
    assert "masks/1.png: fits 2 images named 1" in refusal("folder", tmp_path, normal="fine")
    plain = {"normal": "fine", "masks": ""}
    # Every mend is a key of the configuration, which `jaxad data check` takes, too.
    for option, wrong in (("abnormal", "no images"), ("normal_test", "no images")):
        message = refusal("folder", tmp_path, **{option: "nix", **plain})
        assert f"nix: {wrong}: set data.folder.{option}=''" in message
    message = refusal("folder", tmp_path, normal="fine", masks="nix")
    assert "nix: no such folder: set data.folder.masks='' to go without" in message
    assert "must be within data.root" in refusal("folder", tmp_path, normal="../x")
    assert "must be within data.root" in refusal("folder", tmp_path, abnormal=str(tmp_path))
    touch(tmp_path, "bad/good/1.png")
    assert "'good' can not name a defect" in refusal("folder", tmp_path, **plain)


def test_what_can_not_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"caf\xe9.png 0.0 mono\n")
    assert "labels.csv: not UTF-8 text: install elpv-dataset anew" in refusal("elpv", tmp_path)
    long = "x" * 5000
    message = refusal("mvtec_ad", tmp_path / long)
    assert message.endswith(": can not be read (File name too long)")
    (tmp_path / "manifest.csv").mkdir()
    with pytest.raises(InputError, match=r"manifest\.csv: can not be read \(Is a directory\)"):
        read_csv(tmp_path / "manifest.csv")


def test_manifest_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    manifest = Manifest(tmp_path, (Record("a.png", "c", "", "train", "good"),))
    assert "holds no manifest.csv" in refusal("manifest", tmp_path)
    assert "no such folder" in refusal("manifest", tmp_path / "x.csv")
    write_csv(manifest, tmp_path / "manifest.csv")
    write_csv(manifest, tmp_path / "other.csv")
    assert load_dataset("manifest", tmp_path) == manifest
    assert load_dataset("manifest", str(tmp_path / "other.csv")) == manifest


def test_unknown_layouts_and_options(tmp_path: Path) -> None:
    assert "data.layout='x' is unknown: use one of mvtec_ad, visa, cifar10, elpv" in refusal(
        "x", tmp_path
    )
    assert "layout folder has no option 'good': it has normal, normal_test" in refusal(
        "folder", tmp_path, good="x"
    )
    assert "layout mvtec_ad has no option 'normal': it has none" in refusal(
        "mvtec_ad", tmp_path, normal="x"
    )


def test_scanning_does_not_judge(tmp_path: Path) -> None:
    touch(tmp_path, "a/test/cut/0.png")
    assert len(scan_dataset("mvtec_ad", tmp_path)) == 1
    assert "no normal training" in refusal("mvtec_ad", tmp_path)


def test_layouts_are_told_apart(tmp_path: Path) -> None:
    touch(tmp_path, "m/manifest.csv", "e/data/labels.csv", "a/x/train/good/0.png", "f/good/0.png")
    touch(tmp_path, "v/pcb1/Data/Images/Normal/0.JPG", "w/1cls/pcb1/train/good/0.JPG")
    touch(tmp_path, "c/cifar-10-batches-py/test_batch", "t/cifar10/3.0.2/dataset_info.json")
    touch(tmp_path, "s/cloth/1/train/good/0.png")
    guessed = {name: guess_layout(tmp_path / name) for name in "meafvwcts"}
    assert guessed == {
        "m": "manifest",
        "e": "elpv",
        "a": "mvtec_ad",
        "f": "folder",
        "v": "visa",
        "w": "visa",
        "c": "cifar10",
        "t": "cifar10",
        "s": "texture_ad",
    }
    assert guess_layout(tmp_path / "list.csv") == "manifest"
    assert set(guessed.values()) | {"join"} == set(LAYOUTS)
    Image.new("L", (2, 2)).save(tmp_path / "x.png")
    with pytest.raises(InputError, match="can not tell the layout"):
        guess_layout(tmp_path / "m" / "none")
