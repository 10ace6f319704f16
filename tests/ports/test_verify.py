"""`python -m ports verify`: what it says of a sound file, and that no other passes."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from PIL import Image

from jaxad.backbones import Variant, load_backbone, weights
from jaxad.backbones.architectures import architecture
from jaxad.core import InputError, Preprocess
from ports.__main__ import main
from ports.verify import statistics, verify

METADATA = weights.Metadata(
    architecture="resnet18",
    levels=("layer1", "layer2"),
    folded=False,
    source="resnet18-01234567.pth",
    source_sha256="0123" * 16,
    recipe="OURS",
    licence="MIT",
    preprocess=Preprocess(),
    variant=Variant(epsilon=2e-5),
)


def variables(levels: tuple[str, ...] = METADATA.levels) -> dict[tuple[str, ...], np.ndarray]:
    """Random weights of a ResNet-18, by path."""
    rng = np.random.default_rng(0)
    shapes = weights.shapes(architecture("resnet18"), levels=levels, folded=False)
    return {
        path: rng.uniform(0.01, 0.1, leaf.shape).astype(np.float32) * (-1) ** (leaf.ndim == 4)
        if path[-1] != "kernel"
        else rng.normal(0, 0.05, leaf.shape).astype(np.float32)
        for path, leaf in flatten_dict(shapes).items()
    }


def write(path: Path, flat: dict[tuple[str, ...], np.ndarray], **fields: Any) -> Path:
    metadata = dataclasses.replace(METADATA, **fields)
    weights.write(path, unflatten_dict(flat), metadata=metadata)
    return path


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound file, where `verify resnet18` looks first."""
    monkeypatch.setenv("JAXAD_WEIGHTS", str(tmp_path))
    return write(tmp_path / "resnet18.safetensors", variables())


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(1).integers(0, 256, (40, 72, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def failing(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["verify", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", captured.err)
    return captured.err


def test_says_everything(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat = variables()
    parameters = sum(array.size for path, array in flat.items() if path[0] == "params")
    expected = f"""\
file          {file}
architecture  resnet18
levels        layer1, layer2
source        resnet18-01234567.pth
sha256        {"0123" * 16}
recipe        OURS
licence       MIT
pixels        (x / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225), RGB, bilinear
epsilon       2e-05
padding       symmetric
folded        no
parameters    {parameters:,}
bytes         {file.stat().st_size:,}

level   channels  stride
layer1  64        4
layer2  128       8
"""
    for name in ("resnet18", str(file)):
        assert main(["verify", name]) == 0
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == (expected, "")


def test_image_shows_the_features_that_scoring_sees(
    file: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "resnet18", "--image", str(photo)]) == 0
    head, *rows = [line.split() for line in capsys.readouterr().out.splitlines()[-3:]]
    assert head[-5:] == ["mean", "std", "min", "max", "zeros"]
    backbone, folded = load_backbone(file, levels=("layer1", "layer2"))
    features = jax.jit(backbone.features)(folded, np.asarray(Image.open(photo))[None])
    assert [row[0] for row in rows] == list(features)
    for (name, channels, stride, height, width, *stated), x in zip(rows, features.values()):
        assert (stride, channels) == (("4", "64") if name == "layer1" else ("8", "128"))
        assert (1, int(height), int(width), int(channels)) == x.shape
        want = (x.mean(), x.std(), x.min(), x.max())
        np.testing.assert_allclose([float(s) for s in stated[:4]], want, atol=6e-5)
        assert stated[4] == f"{np.mean(np.asarray(x) == 0):.1%}"


def test_levels_and_pixels_of_other_kinds(tmp_path: Path) -> None:
    caffe = Preprocess(scale=1.0, mean=(1.5, 2.0, 3.0), std=(1.0, 1.0, 1.0), channels="BGR")
    path = write(tmp_path / "a.safetensors", variables(), preprocess=caffe, recipe="")
    text = verify(str(path), levels=["layer2"])
    assert "pixels        (x - (1.5, 2, 3)) / (1, 1, 1), BGR, bilinear\n" in text
    assert "recipe        unknown: not a file of `python -m ports list --sources`\n" in text
    assert text.endswith("level   channels  stride\nlayer2  128       8")


def test_statistics() -> None:
    described = statistics({"a": np.array([0.0, 0.0, -2.0, 4.0], np.float32)})
    assert described == {"a": (0.5, pytest.approx(np.sqrt(4.75)), -2.0, 4.0, 0.5)}
    with pytest.raises(InputError, match="features of b are not finite"):
        statistics({"b": np.array([1.0, np.inf], np.float32)})


def test_names_in_a_file_do_not_break_its_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", variables(), source="a\nlicence  \x1b[31mMIT")
    text = verify(str(path))
    assert r"source        a\nlicence  \x1b[31mMIT" in text.splitlines()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({("params", "conv1", "conv", "kernel"): np.full((7, 7, 3, 64), np.nan)}, "not finite"),
        ({("params", "conv1", "conv", "kernel"): np.ones((3, 3, 3, 64))}, "1 of another shape"),
        ({("params", "extra", "kernel"): np.ones(3)}, "1 not expected (params/extra/kernel)"),
        ({("params", "conv1", "bn", "bias"): None}, "1 missing (params/conv1/bn/bias)"),
        ({("batch_stats", "conv1", "bn", "var"): np.full(64, -1.0)}, "negative variance"),
    ],
)
def test_arrays_that_are_wrong(
    change: dict[tuple[str, ...], Any],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flat = {path: array for path, array in (variables() | change).items() if array is not None}
    path = write(tmp_path / "a.safetensors", flat)
    said = failing(capsys, str(path))
    assert f"{path}: " in said
    assert says in said


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"architecture": "alexnet"}, "holds 'alexnet', which this version does not know"),
        ({"architecture": "resnet50"}, "do not fit the network"),
        ({"levels": ("layer2", "layer1")}, "damaged metadata (levels)"),
        ({"levels": ("stage1",)}, "damaged metadata (levels)"),
        ({"levels": ("layer1", "layer2", "layer3")}, "missing (batch_stats/layer3_0"),
        ({"folded": True}, "do not fit the network"),
        ({"variant": Variant(epsilon=2.0)}, "damaged metadata"),
        ({"preprocess": Preprocess(std=(0.0, 1.0, 1.0))}, "damaged metadata"),
        ({"variant": Variant(padding=224)}, "pads symmetrically, not by 224"),
    ],
)
def test_metadata_that_are_wrong(
    fields: dict[str, Any], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.safetensors", variables(), **fields)
    assert says in failing(capsys, str(path))


def test_damage(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = file.read_bytes()
    for damaged in (b"", data[:7], data[:1000], data[:-1], b"PK\x03\x04" + data, bytes(100)):
        file.write_bytes(damaged)
        assert f"{file}: not a readable safetensors file" in failing(capsys, "resnet18")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["resnet34"], "no weights of resnet34 in"),
        (["alexnet"], "no backbone 'alexnet'"),
        (["gone.safetensors"], "gone.safetensors: no such weight file"),
        (["resnet18", "--levels", "layer1,layer9"], "has no level 'layer9'; choose from layer1,"),
        (["resnet18", "--levels", "layer4"], "does not reach layer4; it has layer1, layer2"),
        (["resnet18", "--levels", ","], "has no level ''"),
        (["resnet18", "--image", "gone.png"], "gone.png: no such file"),
        (["resnet18", "--image", "resnet18.safetensors"], "no PNG, JPEG, BMP or TIFF image"),
        (["resnet18", "--image", "large.png"], "is 1025x9 pixels; scale it to 8 to 1024 along"),
        (["resnet18", "--image", "small.png"], "is 7x9 pixels; scale it to 8 to 1024 along"),
    ],
)
def test_what_can_not_be_done(
    argv: list[str],
    says: str,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(file.parent)
    for name, width in (("large.png", 1025), ("small.png", 7)):
        Image.new("RGB", (width, 9)).save(name)
    assert says in failing(capsys, *argv)


def test_a_file_under_the_name_of_another(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.rename(file.with_name("resnet34.safetensors"))
    assert "holds resnet18, not resnet34; rename it" in failing(capsys, "resnet34")
