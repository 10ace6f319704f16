"""Several datasets as one: real ones, made-up ones, folders held to, and every refusal."""

import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxad.data.check import describe, require_readable
from jaxad.data.decode import decode_image, image_path
from jaxad.data.jobs import jobs
from jaxad.data.layouts import load_dataset, scan_dataset
from jaxad.data.manifest import Manifest, Record, shared_images, validate, write_csv
from jaxad.data.pipeline import batches
from jaxad.data.synthetic import write_dataset
from jaxad.errors import InputError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
needs_all = pytest.mark.skipif(
    not SHARED.is_dir() or importlib.util.find_spec("elpv_dataset") is None,
    reason="../shared/data is not here, or elpv-dataset is not installed",
)


def make(root: Path, *categories: str, layout: str = "mvtec_ad", seed: int = 0) -> Manifest:
    return write_dataset(
        root,
        layout=layout,
        categories=categories,
        n_train=3,
        n_test_good=2,
        n_test_bad=2,
        size=(24, 24),
        seed=seed,
    )


def refusal(root: str | Path = "", **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_dataset("join", root, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


@needs_all
def test_the_real_four() -> None:
    parts = (("elpv", ""), ("manifest", "magnetic_tile"), ("mvtec_ad", "mvtec_ad_256", "bottle"))
    manifest = load_dataset("join", SHARED, parts=parts)
    require_readable(Manifest(manifest.root, manifest.records[::20]))
    assert manifest.categories == ("bottle", "magnetic_tile", "mono", "poly")
    counts = Counter((r.category, r.split, r.is_good) for r in manifest.records)
    assert counts == {
        ("bottle", "train", True): 209,
        ("bottle", "test", True): 20,
        ("bottle", "test", False): 63,
        ("magnetic_tile", "train", True): 775,
        ("magnetic_tile", "test", True): 177,
        ("magnetic_tile", "test", False): 392,
        ("mono", "train", True): 470,
        ("mono", "test", True): 118,
        ("mono", "test", False): 486,
        ("poly", "train", True): 736,
        ("poly", "test", True): 184,
        ("poly", "test", False): 630,
    }
    # Each category is what it is alone, but for where its records say they are.
    for category, (layout, root) in {
        "poly": ("elpv", ""),
        "magnetic_tile": ("manifest", SHARED / "magnetic_tile"),
        "bottle": ("mvtec_ad", SHARED / "mvtec_ad_256"),
    }.items():
        alone = load_dataset(layout, root, categories=category)
        part = manifest.select(category)
        assert [r._replace(root="") for r in part.records] == list(alone.records)
        for r, own in zip(part.records[::50], alone.records[::50]):
            assert image_path(part.root, r) == alone.root / own.path
    test = manifest.select("bottle", "test")
    batch = next(iter(batches(test, image_size=(64, 64), batch_size=4)))
    assert batch["mask"].any(axis=(1, 2)).tolist() == batch["label"].astype(bool).tolist()


@pytest.fixture
def two(tmp_path: Path) -> Path:
    make(tmp_path / "a", "nut", "bolt")
    make(tmp_path / "b", "cog", layout="manifest", seed=1)
    return tmp_path


def test_parts_are_read_as_they_are_alone(two: Path) -> None:
    parts = (("mvtec_ad", "a"), ("manifest", "b/manifest.csv"))
    manifest = load_dataset("join", two, parts=parts)
    require_readable(manifest)
    assert manifest.categories == ("bolt", "cog", "nut")
    first, second = load_dataset("mvtec_ad", two / "a"), load_dataset("manifest", two / "b")
    assert [r._replace(root="") for r in manifest.records] == [*first.records, *second.records]
    assert manifest.folders == (two / "a", two / "b")
    joined = next(iter(batches(manifest, image_size=(24, 24), batch_size=len(manifest))))
    alone = [
        next(iter(batches(part, image_size=(24, 24), batch_size=len(part), subclasses=[""])))
        for part in (first, second)
    ]
    for field in ("image", "mask", "label", "has_mask"):
        np.testing.assert_array_equal(
            joined[field], np.concatenate([batch[field] for batch in alone])
        )
    # The same whether roots are relative to data.root, absolute or relative to here.
    absolute = tuple((layout, str(two / root)) for layout, root in parts)
    assert load_dataset("join", "", parts=absolute) == manifest
    assert load_dataset("join", two / "b", parts=absolute) == manifest
    lists = json.loads(json.dumps(parts))
    assert load_dataset("join", two, parts=lists) == manifest


def test_relative_to_the_working_directory(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(two)
    manifest = load_dataset("join", "", parts=(("mvtec_ad", "a", "nut"),))
    require_readable(manifest)
    assert manifest.categories == ("nut",)
    assert manifest.folders == (Path("a"),)
    # An empty root is data.root itself.
    assert len(load_dataset("join", "a", parts=[("mvtec_ad", "", " nut, bolt ")])) == 14
    assert len(load_dataset("join", "a", parts=[("mvtec_ad",)])) == 14


def test_selection(two: Path) -> None:
    parts = (("mvtec_ad", "a", "nut"), ("manifest", "b"))
    assert load_dataset("join", two, parts=parts).categories == ("cog", "nut")
    assert load_dataset("join", two, parts=parts, categories="cog").categories == ("cog",)
    assert "data.join: no category 'bolt': there are cog, nut" in refusal(
        two, parts=parts, categories=("bolt",)
    )
    assert "no category 'gear': there are bolt, nut" in refusal(
        two, parts=(("mvtec_ad", "a", "gear"),)
    )


def test_options_of_layout_folder(two: Path) -> None:
    for i in range(6):
        path = two / "photos" / "fine" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(path)
    options = {"normal": "fine", "normal_test": "", "abnormal": "", "masks": ""}
    parts = (("folder", "photos"), ("manifest", "b"))
    manifest = load_dataset("join", two, parts=parts, folder=options)
    assert manifest.categories == ("cog", "photos")
    assert "no folder 'good' of normal photos" in refusal(two, parts=parts)


def test_categories_of_the_same_name(two: Path) -> None:
    make(two / "c" / "line2", "nut", "gear", seed=2)
    parts = (("mvtec_ad", "a"), ("mvtec_ad", "c/line2"))
    manifest = load_dataset("join", two, parts=parts)
    assert manifest.categories == ("a-nut", "bolt", "gear", "line2-nut")
    paths = {r.category: image_path(manifest.root, r) for r in manifest.records}
    assert paths["a-nut"].is_relative_to(two / "a")
    assert paths["line2-nut"].is_relative_to(two / "c" / "line2")
    assert load_dataset("join", two, parts=parts[::-1]).categories == manifest.categories
    make(two / "d" / "a", "nut", seed=3)
    message = refusal(two, parts=(*parts, ("mvtec_ad", "d/a")))
    assert "category 'a-nut' in ('mvtec_ad', 'a', '') and in ('mvtec_ad', 'd/a', '')" in message
    assert "has category 'a-bolt', 'a-nut' in" in refusal(two, parts=(parts[0], parts[0]))
    make(two / "e", "cog", layout="manifest", seed=4)
    parts = (("manifest", "b/manifest.csv"), ("manifest", "e"))
    assert load_dataset("join", two, parts=parts).categories == ("b-cog", "e-cog")


def test_an_image_in_two_parts_is_found(two: Path) -> None:
    """Also where one part's folder lies in another's, so that the paths differ."""
    rows = ["path,category,subclass,split,label,mask"]
    rows += ["train/good/000.png,x,,test,good,", "train/good/001.png,x,,train,good,"]
    (two / "a" / "nut" / "list.csv").write_text("\n".join(rows))
    parts = (("mvtec_ad", "a", "nut"), ("manifest", "a/nut/list.csv"))
    message = refusal(two, parts=parts)
    assert message.startswith("data.join: in both train and test: 'train/good/000.png'")
    (two / "alias").symlink_to(two / "a" / "nut")
    parts = (parts[0], ("manifest", "alias/list.csv"))
    assert "in both train and test: 'train/good/000.png'" in refusal(two, parts=parts)
    (two / "a" / "nut" / "list.csv").write_text("\n".join(rows[:1] + rows[2:]))
    manifest = load_dataset("join", two, parts=parts)
    assert len(manifest) == 8
    (line,) = shared_images(manifest)
    assert "1 images are in more than one of the categories" in line


@pytest.mark.parametrize("name", ["../a/nut/train/good/000.png", "/etc/hosts", "link.png"])
def test_parts_stay_within_their_own_folder(two: Path, name: str) -> None:
    """A file of one part can not name a file of another, though both are joined."""
    if name == "link.png":
        (two / "b" / name).symlink_to(two / "a" / "nut" / "train" / "good" / "000.png")
    with (two / "b" / "manifest.csv").open("a") as file:
        file.write(f"{name},cog,,test,good,\n")
    message = refusal(two, parts=(("mvtec_ad", "a"), ("manifest", "b")))
    assert message.startswith(f"{two / 'b'}: ")
    assert "leave this folder" in message
    text, ok = describe(scan_dataset("join", two, parts=(("mvtec_ad", "a"), ("manifest", "b"))))
    assert not ok
    assert text.startswith(f"root {two / 'a'}\nroot {two / 'b'}\n22 images, 3 categories")


def test_a_file_can_not_set_a_folder(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(
        "path,category,subclass,split,label,mask,root,as_stored\nhosts,c,,train,good,,/etc,True\n"
    )
    with pytest.raises(InputError, match=r"1 files are missing: 'hosts'"):
        load_dataset("manifest", tmp_path / "m.csv")
    here = Manifest(tmp_path, (Record("hosts", "c", "", "train", "good", root="/etc"),))
    with pytest.raises(InputError, match="can not be written as CSV"):
        write_csv(here, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_missing_files_and_bad_pixels_name_their_part(two: Path) -> None:
    parts = (("mvtec_ad", "a"), ("manifest", "b"))
    manifest = load_dataset("join", two, parts=parts)
    broken = two / "b" / "cog" / "train" / "good" / "000.png"
    broken.write_bytes(b"")
    with pytest.raises(InputError) as caught:
        require_readable(manifest)
    assert str(caught.value).startswith(f"{broken}: the file is empty")
    broken.unlink()
    assert f"{two / 'b'}: 1 files are missing" in refusal(two, parts=parts)
    with pytest.raises(InputError, match=r"^data\.join: unknown split 'val'"):
        validate(Manifest(Path(), (*manifest.records, manifest.records[0]._replace(split="val"))))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((), r"data.join is (): name the datasets to join, as (('elpv', '')"),
        ("elpv", "data.join is 'elpv': name the datasets"),
        (("elpv", ""), "data.join has 'elpv', where a part is one of"),
        ((("elpv", "", "mono", "x"),), "where a part is one of"),
        (((),), "where a part is one of"),
        ((("mvtec_ad", 3),), "where a part is one of"),
        ((("join", "x"),), "data.join has a part of layout 'join': list its parts instead"),
        ((("mvtec", "x"),), "data.layout='mvtec' is unknown"),
        ((("mvtec_ad", "absent"),), "absent: no such folder"),
    ],
)
def test_parts_of_another_form(two: Path, parts: Any, expected: str) -> None:
    assert expected in refusal(two, parts=parts)


def test_from_the_configuration(two: Path) -> None:
    """The parts as JSON keeps them, and what training and evaluation do with a job."""
    parts = json.loads(json.dumps((("mvtec_ad", "a"),)))
    manifest = load_dataset("join", two, parts=parts)
    (job,) = jobs(manifest, one_for_all=True)
    assert list(job.test) == ["bolt", "nut"]
    assert len(job.train) == 6
    batch = next(
        iter(batches(Manifest(manifest.root, job.train), image_size=(24, 24), batch_size=6))
    )
    expected = decode_image(manifest.root, job.train[4], size=(24, 24))
    np.testing.assert_array_equal(batch["image"][4], expected)
