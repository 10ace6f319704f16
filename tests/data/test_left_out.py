"""Every file below a dataset's folder is used, or named as left out and why."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxad.data import left_out as module
from jaxad.data.check import check_dataset
from jaxad.data.layouts import scan_dataset
from jaxad.data.left_out import left_out
from jaxad.data.manifest import Manifest
from jaxad.data.subclasses import of_subclasses
from jaxad.data.synthetic import write_dataset


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def lines_of(layout: str, root: Path, **options: object) -> list[str]:
    return left_out(scan_dataset(layout, root, **options), layout=layout)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    write_dataset(
        tmp_path, categories=("nut",), n_train=3, n_test_good=2, n_test_bad=3, size=(16, 16)
    )
    return tmp_path


def test_nothing_is_left_out(parts: Path) -> None:
    assert lines_of("mvtec_ad", parts) == [
        f"8 photos and 3 masks are used; 0 files below {parts} are left out"
    ]


MASKS = "a mask is found in <category>/ground_truth/<defect>/, named like its photo, with or"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "nut/train/good/monday/x.png",
            "1 photos lie deeper than the photos that are used: "
            "'nut/train/good/monday/x.png': move them up",
        ),
        ("nut/train/good/monday/deep/x.JPG", "lie deeper than the photos that are used"),
        ("nut/validation/good/x.png", "lie where layout mvtec_ad looks for none: 'nut/valid"),
        ("bolt/good/x.tif", "1 photos lie where layout mvtec_ad looks for none: 'bolt/good/x.tif'"),
        ("nut/ground_truth/spot/007_gt.png", "1 masks fit no photo: 'nut/ground_truth/s"),
        ("nut/ground_truth/spot/007-mask.png", f"007-mask.png': {MASKS}"),
        ("nut/ground_truth/spot/007.png", f"007.png': {MASKS} without _mask"),
        ("nut/masks/spot/000.png", f"1 masks fit no photo: 'nut/masks/spot/000.png': {MASKS}"),
        ("nut/GT/spot/000.png", f"1 masks fit no photo: 'nut/GT/spot/000.png': {MASKS}"),
        ("nut/ground_truth/spot/000.png", "are further masks of photos that have one"),
        ("nut/train/good/x.webp", "1 are images of a format that is not read: 'nut/train/good/x.w"),
        ("nut/train/good/x.HEIC", "x.HEIC': save them as PNG"),
        ("nut/train/good/.x.png", "1 are hidden: 'nut/train/good/.x.png'"),
        ("nut/.cache/x.png", "1 are hidden: 'nut/.cache'"),
        ("readme.txt", "1 are no images, but tables, texts and the like: 'readme.txt'"),
        (
            "nut/train/good/x.npy",
            "1 are no images, but tables, texts and the like: 'nut/train/good/x.npy'",
        ),
    ],
)
def test_one_file_and_its_reason(parts: Path, name: str, expected: str) -> None:
    touch(parts, name)
    count, line = lines_of("mvtec_ad", parts)
    assert count == f"8 photos and 3 masks are used; 1 files below {parts} are left out"
    assert line.startswith("left out: ")
    assert expected in line
    # `jaxad data check` says the same, and that nothing stands in the way.
    text, usable = check_dataset(parts, layout="mvtec_ad")
    assert usable
    assert line in text.splitlines()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\x89PNG\r\n\x1a\n", "images by content but not by name"),
        (b"\xff\xd8\xff\xe0", "images by content but not by name"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "images of a format that is not read"),
        (b"RIFF\0\0\0\0WAVE", "no images"),
        (b"GIF89a", "images of a format that is not read"),
        (b"BM or other letters", "no images"),
    ],
)
def test_content_tells_what_a_name_does_not(parts: Path, content: bytes, expected: str) -> None:
    (parts / "nut" / "train" / "good" / "003").write_bytes(content)
    assert f"1 are {expected}" in lines_of("mvtec_ad", parts)[1]


def test_jpegs_of_other_endings_are_photos(parts: Path) -> None:
    good = parts / "nut" / "train" / "good"
    for name in ("a.jfif", "b.JPE"):
        Image.new("RGB", (16, 16)).save(good / name, "jpeg")
    assert lines_of("mvtec_ad", parts)[0].startswith("10 photos and 3 masks are used; 0 files")
    text, usable = check_dataset(parts, decode=True)
    assert usable
    assert "train 3 good, calibration 2 good" in text


def test_links(parts: Path) -> None:
    """A folder that is a link is used where the layout looks into it, and named where not."""
    elsewhere = parts.with_name("elsewhere")
    touch(elsewhere, "x.png", "y.png")
    (parts / "nut" / "train" / "good" / "sub").symlink_to(elsewhere)
    (parts / "nut" / "gone.png").symlink_to(parts / "nothing")
    (parts / "nut" / "loop").symlink_to(parts)
    count, links, dead = lines_of("mvtec_ad", parts)
    assert count.startswith("8 photos and 3 masks are used; 3 files")
    assert "2 are links to folders, which are not followed: 'nut/loop', 'nut/train/good/s" in links
    assert "1 are links to nothing: 'nut/gone.png': mend or remove them" in dead
    (parts / "nut" / "test" / "dent").symlink_to(parts / "nut" / "test" / "spot")
    assert lines_of("mvtec_ad", parts)[0].startswith("9 photos and 3 masks are used; 3 files")


def test_a_linked_folder_of_ones_own_photos(tmp_path: Path) -> None:
    root = tmp_path / "root"
    touch(root, "good/1.png", "good/2.png")
    touch(tmp_path, "more/3.png")
    (root / "good" / "more").symlink_to(tmp_path / "more")
    count, line = lines_of("folder", root)
    assert count == f"2 photos and 0 masks are used; 1 files below {root} are left out"
    assert line.endswith("which are not followed: 'good/more': put the folder there itself")


def test_masks_that_all_fail_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "good/1.png", "bad/cut/1.png", "bad/cut/2.png", "gt/cut/1.png", "gt/cut/2.png")
    count, masks, bare = lines_of("folder", tmp_path)
    assert count.startswith("3 photos and 0 masks are used; 2 files")
    assert "2 masks fit no photo: 'gt/cut/1.png', 'gt/cut/2.png'" in masks
    assert "the folder of data.folder.masks" in masks
    name = tmp_path.name
    assert bare == (
        f"2 of 2 defective photos of {name!r} have no mask: 'bad/cut/1.png', 'bad/cut/2.png'"
    )
    (tmp_path / "gt").rename(tmp_path / "masks")
    assert lines_of("folder", tmp_path) == [
        f"3 photos and 2 masks are used; 0 files below {tmp_path} are left out"
    ]
    (tmp_path / "masks" / "cut" / "1.png").rename(tmp_path / "masks" / "cut" / "1_gt.png")
    assert lines_of("folder", tmp_path)[-1].startswith("1 of 2 defective photos")


def test_datasets_without_masks_are_not_blamed(tmp_path: Path) -> None:
    touch(tmp_path, "good/1.png", "bad/1.png")
    assert len(lines_of("folder", tmp_path)) == 1


def test_photos_of_one_name(parts: Path) -> None:
    touch(parts, "nut/train/good/000.jpg", "nut/test/good/001.bmp")
    assert lines_of("mvtec_ad", parts)[1:] == [
        "2 names stand for several photos, which differ in their ending alone: 'nut/test/good/"
        "001.bmp and nut/test/good/001.png', 'nut/train/good/000.jpg and nut/train/good/000.png': "
        "keep one of each if they are the same"
    ]


def test_what_is_not_asked_for_is_not_left_out(tmp_path: Path) -> None:
    write_dataset(
        tmp_path,
        layout="texture_ad",
        categories=("cloth", "wafer"),
        subclasses=("a", "b"),
        n_train=1,
        n_test_good=1,
        n_test_bad=1,
        size=(16, 16),
    )
    one = scan_dataset("texture_ad", tmp_path, categories="cloth")
    assert left_out(one) == [
        "6 photos and 2 masks are used, 8 belong to what is not asked for; 0 files below "
        f"{tmp_path} are left out"
    ]
    less = of_subclasses(one, train=("a",), test=("b",))
    assert left_out(less)[0].startswith("3 photos and 1 masks are used, 12 belong to what is not")
    joined = scan_dataset(
        "join", tmp_path, parts=(("texture_ad", "", "cloth"), ("mvtec_ad", "wafer", "a"))
    )
    assert left_out(joined)[0].startswith("9 photos and 3 masks are used, 4 belong to what is not")


def test_a_table_says_what_is_used(parts: Path) -> None:
    rows = ["path,category,subclass,split,label,mask", "nut/train/good/000.png,nut,,train,good,"]
    (parts / "manifest.csv").write_text("\n".join(rows))
    count, masks, unlisted, other = lines_of("manifest", parts)
    assert count.startswith("1 photos and 0 masks are used; 11 files")
    assert "3 masks fit no photo" in masks
    assert "7 images are not listed in the dataset's table" in unlisted
    assert other == "left out: 1 are no images, but tables, texts and the like: 'manifest.csv'"


def test_images_within_files(tmp_path: Path) -> None:
    def save(name: str, count: int) -> None:
        data = np.zeros((count, 3072), np.uint8)
        content = {b"data": data, b"labels": [i % 10 for i in range(count)]}
        (tmp_path / name).write_bytes(pickle.dumps(content, 2))

    save("data_batch_1", 10)
    save("test_batch", 20)
    touch(tmp_path, "readme.html")
    count, other = lines_of("cifar10", tmp_path)
    assert count.startswith("30 photos and 0 masks are used; 1 files")
    assert "'readme.html'" in other


def test_the_search_is_bounded(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 5)
    assert lines_of("mvtec_ad", parts)[1] == (
        "more than 5 files are there: the rest was not looked at"
    )


def test_every_file_is_counted_once(parts: Path) -> None:
    """Also where one joined part lies in another, and where a folder can not be opened."""
    (parts / "nut" / "list.csv").write_text(
        "path,category,subclass,split,label,mask\ntrain/good/000.png,x,,train,good,\n"
    )
    joined = scan_dataset("join", parts, parts=(("mvtec_ad", ""), ("manifest", "nut/list.csv")))
    count, other = left_out(joined)
    assert count.startswith("8 photos and 3 masks are used; 1 files")
    assert other == "left out: 1 are no images, but tables, texts and the like: 'nut/list.csv'"
    gone = left_out(Manifest(parts / "absent", scan_dataset("mvtec_ad", parts).records))
    assert "1 are folders that can not be opened: '.': permit to read them" in gone[1]
