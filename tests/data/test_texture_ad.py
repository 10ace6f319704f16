"""Layout texture_ad: the default tree, patterns of one's own, and every refusal."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxad.config import default_config
from jaxad.data.layouts import load_dataset, scan_dataset, texture_ad
from jaxad.data.manifest import Record
from jaxad.errors import InputError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def refusal(root: Path, **options: str) -> str:
    with pytest.raises(InputError) as caught:
        load_dataset("texture_ad", root, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "textures"
    touch(
        root,
        "readme.txt",
        "cloth/2/train/good/1.PNG",
        "cloth/2/train/good/.hidden.png",
        "cloth/2/train/good/notes.txt",
        "cloth/2/test/Normal/1.jpg",
        "cloth/2/test/cut/2.bmp",
        "cloth/2/test/cut/1.png",
        "cloth/2/test/cut/3.png",
        "cloth/2/ground_truth/cut/1_mask.png",
        "cloth/2/ground_truth/cut/2.png",
        "cloth/2/ground_truth/Normal/1_mask.png",
        "cloth/10/train/good/1.png",
        "cloth/.cache/train/good/1.png",
        "wafer/a b/train/good/x.tif",
    )
    return root


def test_the_default_tree(tree: Path) -> None:
    truth = "cloth/2/ground_truth/cut/"
    assert load_dataset("texture_ad", tree).records == (
        Record("cloth/10/train/good/1.png", "cloth", "10", "train", "good"),
        Record("cloth/2/train/good/1.PNG", "cloth", "2", "train", "good"),
        Record("cloth/2/test/Normal/1.jpg", "cloth", "2", "test", "good"),
        Record("cloth/2/test/cut/1.png", "cloth", "2", "test", "cut", truth + "1_mask.png"),
        Record("cloth/2/test/cut/2.bmp", "cloth", "2", "test", "cut", truth + "2.png"),
        Record("cloth/2/test/cut/3.png", "cloth", "2", "test", "cut"),
        Record("wafer/a b/train/good/x.tif", "wafer", "a b", "train", "good"),
    )
    only = load_dataset("texture_ad", tree, categories="wafer", test="", masks="")
    assert only.subclasses == ("a b",)


def test_the_configuration_has_the_same_defaults() -> None:
    assert default_config().data.texture_ad.to_dict() == {
        "train": texture_ad.TRAIN,
        "test": texture_ad.TEST,
        "masks": texture_ad.MASKS,
    }


def test_patterns_split_names(tmp_path: Path) -> None:
    """Fields are parts of names; the root names the category; masks lie beside their images."""
    root = tmp_path / "metal"
    touch(root, "normal/steel_x_001.png", "normal/brass_001.png", "normal/other.png")
    touch(root, "check/dent/brass_7.jpg", "check/dent/brass_7-gt.png", "check/dent/steel_7.jpg")
    touch(root, "check/good/brass_7.jpg", "check/good/brass_7-gt.png")
    manifest = load_dataset(
        "texture_ad",
        root,
        train="normal/{subclass}_{name}",
        test="check/{label}/{subclass}_{name}",
        masks="check/{label}/{subclass}_{name}-gt",
    )
    assert manifest.records == (
        Record("normal/brass_001.png", "metal", "brass", "train", "good"),
        Record(
            "check/dent/brass_7.jpg", "metal", "brass", "test", "dent", "check/dent/brass_7-gt.png"
        ),
        Record("check/good/brass_7.jpg", "metal", "brass", "test", "good"),
        Record("normal/steel_x_001.png", "metal", "steel", "train", "good"),
        Record("check/dent/steel_7.jpg", "metal", "steel", "test", "dent"),
    )


def test_a_field_that_comes_twice_is_the_same_text(tmp_path: Path) -> None:
    touch(tmp_path, "m/s1/s1-1-1.png", "m/s1/s2-1-1.png", "m/s1/s1-1-2.png", "m/s{1}/s{1}-a-a.png")
    manifest = scan_dataset(
        "texture_ad", tmp_path, train="{category}/{subclass}/{subclass}-{name}-{name}", test=""
    )
    assert [r.path for r in manifest.records] == ["m/s1/s1-1-1.png", "m/s{1}/s{1}-a-a.png"]
    escaped = scan_dataset("texture_ad", tmp_path, train="m/s{{{subclass}}}/{name}", test="")
    assert [r.subclass for r in escaped.records] == ["1"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"train": "{category}/train/{name}"}, "train='{category}/train/{name}' has no {subclass}"),
        ({"train": ""}, "train='' has no {subclass}, {name}"),
        ({"test": "{subclass}/{name}"}, "has no {label}: say where in the path it stands"),
        ({"masks": "masks/mask"}, "masks='masks/mask' has no {name}"),
        ({"train": "{product}/{subclass}/{name}"}, "field 'product': there are {category}, {sub"),
        ({"train": "{subclass}/{name.x}"}, "has the field 'name.x'"),
        ({"train": "{subclass}/{name!r}"}, "has the field 'name'"),
        ({"train": "{subclass}/{name:>9}"}, "has the field 'name'"),
        ({"train": "{subclass}/{}{name}"}, "has the field ''"),
        ({"train": "{subclass}{name}"}, "two fields side by side"),
        ({"train": "{subclass/name}"}, "is no pattern"),
        ({"train": "{subclass}/{name"}, "is no pattern"),
        ({"test": "/data/{subclass}/{label}/{name}"}, "leads out of data.root"),
        ({"test": "C:/{subclass}/{label}/{name}"}, "leads out of data.root"),
        ({"masks": "{subclass}/../{name}"}, "leads out of data.root"),
        (
            {"train": "{category}/{subclass}/training/{name}"},
            "cloth/10: nothing fits 'training' of data.texture_ad.train="
            "'{category}/{subclass}/training/{name}' (there is 'train')",
        ),
        (
            {"test": "{category}/{subclass}/train/{label}/t{name}"},
            "cloth/10/train/good: no image fits 't{name}' of data.texture_ad.test=",
        ),
        (
            {"masks": "{category}/{subclass}/gt/{name}"},
            "cloth/2/gt/1: no such mask, nor any other that fits data.texture_ad.masks=",
        ),
        ({"masks": texture_ad.TEST}, "no such mask"),
    ],
)
def test_patterns_of_another_form(tree: Path, options: dict[str, str], expected: str) -> None:
    assert expected in refusal(tree, **options)


def test_nothing_there(tmp_path: Path) -> None:
    touch(tmp_path, "one/train/x.png", "two/x.txt")
    assert f"{tmp_path / 'one' / 'train'}: nothing fits 'train'" in refusal(tmp_path)
    touch(tmp_path, "three/a/b/train/good/x.png")
    message = refusal(tmp_path / "three")
    assert "nothing fits 'test'" in message
    assert message.endswith(
        "mend the pattern or data.root, or go without by data.texture_ad.test=''"
    )
    assert "(there is 'x.png')" in refusal(tmp_path / "one")
    assert "(there is nothing)" in refusal(tmp_path / "two")


def test_masks_of_one_name_belong_to_their_own_defect(tree: Path) -> None:
    touch(tree, "cloth/2/test/hole/1.png", "cloth/2/ground_truth/hole/1_mask.png")
    masks = {r.path: r.mask for r in load_dataset("texture_ad", tree).records if r.mask}
    for defect in ("cut", "hole"):
        assert masks[f"cloth/2/test/{defect}/1.png"] == f"cloth/2/ground_truth/{defect}/1_mask.png"


def test_a_mask_of_two_images(tree: Path) -> None:
    touch(tree, "cloth/2/test/hole/1.png", "cloth/2/masks/1.png", "cloth/2/masks/2.png")
    message = refusal(tree, masks="{category}/{subclass}/masks/{name}")
    assert message.startswith(f"{tree / 'cloth/2/masks/1.png'}: fits 'cloth/2/test/cut/1.png' and ")
    assert "'cloth/2/test/hole/1.png': name more fields in data.texture_ad.masks=" in message


def test_links_out_of_the_root_are_refused(tree: Path, tmp_path: Path) -> None:
    touch(tmp_path, "outside/good/1.png")
    (tree / "cloth" / "10" / "test").symlink_to(tmp_path / "outside")
    assert "links that leave this folder: 'cloth/10/test/good/1.png'" in refusal(tree)
    (tree / "cloth" / "10" / "test").unlink()
    (tree / "cloth" / "2" / "ground_truth" / "cut" / "3.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "outside.png").touch()
    assert "links that leave this folder: 'cloth/2/ground_truth/cut/3.png'" in refusal(tree)


def test_a_captured_part_can_not_lead_out(tmp_path: Path) -> None:
    """`a-..` holds the subclass `..`, which the masks' pattern would climb by."""
    root = tmp_path / "root"
    touch(root, "a-../cut/1.png", "b/train/1.png")
    touch(tmp_path, "masks/1.png")
    message = refusal(
        root,
        train="b/{subclass}/{name}",
        test="a-{subclass}/{label}/{name}",
        masks="{subclass}/masks/{name}",
    )
    assert "paths that leave this folder: '../masks/1.png'" in message


def test_a_part_of_joined_data(tree: Path, tmp_path: Path) -> None:
    touch(tmp_path, "washer/train/good/0.png")
    options = {"train": "{category}/{subclass}/train/good/{name}", "test": "", "masks": ""}
    manifest = load_dataset(
        "join",
        tmp_path,
        parts=(("texture_ad", "textures", "wafer"), ("mvtec_ad", "", "washer")),
        texture_ad=options,
    )
    assert [(r.category, r.subclass) for r in manifest.records] == [
        ("wafer", "a b"),
        ("washer", ""),
    ]


word = st.text("ab1_-{}. ", min_size=1, max_size=6)


@settings(max_examples=25)
@given(word, word, word)
def test_what_a_pattern_writes_it_reads(literal: str, subclass: str, name: str) -> None:
    escaped = literal.replace("{", "{{").replace("}", "}}")
    train = f"p{escaped}{{subclass}}/q{{subclass}}{escaped}{{name}}"
    with tempfile.TemporaryDirectory() as folder:
        image = train.format(subclass=subclass, name=name) + ".png"
        touch(Path(folder), image)
        (found,) = scan_dataset("texture_ad", folder, train=train, test="").records
    assert found == Record(image, Path(folder).name, subclass, "train", "good")
