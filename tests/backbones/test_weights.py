import dataclasses
import os
import stat
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

import jaxad
from jaxad.backbones import (
    ARCHITECTURES,
    Variant,
    init_backbone,
    load_backbone,
    weight_file,
    weights,
)
from jaxad.core import InputError, Preprocess

METADATA = weights.Metadata(
    architecture="resnet18",
    levels=("layer1", "layer2"),
    folded=False,
    source="resnet18-f37072fd.pth",
    source_sha256="f3" * 32,
    recipe="IMAGENET1K_V1",
    licence="BSD-3-Clause",
    preprocess=Preprocess(mean=(0.5, 0.4, 0.3), channels="BGR", resize="bicubic"),
    variant=Variant(epsilon=2e-5),
)


def random_variables(levels=("layer2",)):
    random = np.random.default_rng(0)
    shapes = weights.shapes(ARCHITECTURES["resnet18"], levels=levels, folded=False)
    return jax.tree.map(
        lambda leaf: random.uniform(0.01, 0.1, leaf.shape).astype(np.float32), shapes
    )


@pytest.fixture(scope="module")
def variables():
    return random_variables()


@pytest.fixture
def path(tmp_path, variables):
    path = tmp_path / "resnet18.safetensors"
    weights.write(path, variables, metadata=METADATA)
    return path


def edit(path, *, arrays=None, strings=None):
    """Rewrite a weight file with some arrays (None: without them) or metadata changed."""
    flat = load_file(path) | (arrays or {})
    flat = {name: array for name, array in flat.items() if array is not None}
    save_file(flat, path, metadata=METADATA.to_strings() | (strings or {}))


def test_what_is_written_is_read(path, variables):
    loaded, metadata = weights.read(path)
    assert metadata == METADATA
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_half_precision_files_are_widened(path, variables):
    edit(path, arrays={k: v.astype(np.float16) for k, v in load_file(path).items()})
    loaded, _ = weights.read(path)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), loaded, variables)


def test_a_failed_write_leaves_the_old_file(path, variables, monkeypatch):
    before = path.read_bytes()

    def fill_the_disk(self, data):
        self.touch()
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        weights.write(path, variables, metadata=METADATA)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_backbone_is_folded_pruned_and_prepares_pixels_as_its_file_says(path, variables):
    backbone, loaded = load_backbone(path, levels=("layer1",))
    assert backbone.name == "resnet18"
    assert backbone.levels == {"layer1": (64, 4)}
    assert backbone.preprocess == METADATA.preprocess
    assert loaded.keys() == {"params"}
    assert loaded["params"].keys() == {"conv1", "layer1_0", "layer1_1"}

    images = np.random.default_rng(1).integers(0, 256, (2, 32, 40, 3), dtype=np.uint8)
    plain = ARCHITECTURES["resnet18"].build(
        levels=("layer1",), folded=False, variant=METADATA.variant
    )
    with jax.default_matmul_precision("highest"):
        got = jax.jit(backbone.features)(loaded, images)
        want = jax.jit(plain.apply)(variables, METADATA.preprocess(jnp.asarray(images)))
    assert got.keys() == {"layer1"}
    scale = float(jnp.abs(want["layer1"]).max())
    np.testing.assert_allclose(got["layer1"], want["layer1"], rtol=0, atol=1e-5 * scale)


def test_import_of_the_package_stays_light():
    code = "import sys, jaxad; assert not {'jax', 'safetensors'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert jaxad.load_backbone is load_backbone
    with pytest.raises(AttributeError, match="no attribute 'load_nothing'"):
        _ = jaxad.load_nothing


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (("layer3",), "does not reach layer3; it has layer1, layer2"),
        (None, "does not reach layer3"),
        (("stage3",), "no level 'stage3'; choose from layer1"),
    ],
)
def test_levels_that_are_not_there_are_named(path, levels, message):
    with pytest.raises(InputError, match=message):
        load_backbone(path, levels=levels)


KERNEL = "params/layer2_0/conv1/conv/kernel"
VAR = "batch_stats/conv1/bn/var"


@pytest.mark.parametrize(
    ("arrays", "strings", "message"),
    [
        ({KERNEL: None}, {}, f"1 missing \\({KERNEL}\\)$"),
        ({"params/fc/kernel": np.ones(3)}, {}, "params/fc/kernel is F64; only F16 and F32"),
        ({"params/fc/kernel": np.ones(3, "f")}, {}, "1 not expected .params/fc/kernel"),
        (
            {KERNEL: np.ones((3, 3, 64, 1), "f")},
            {},
            r"kernel is \(3, 3, 64, 1\), not \(3, 3, 64, 128",
        ),
        (
            {KERNEL: np.full((3, 3, 64, 128), np.nan, "f")},
            {},
            "conv/kernel holds values that are not",
        ),
        ({VAR: np.full(64, -1, "f")}, {}, "bn/var holds a negative variance"),
        ({"params/conv1": np.ones(3, "f")}, {}, "params/conv1 is both an array and a scope"),
        ({}, {"folded": "true"}, r"missing \(params/conv1/conv/bias.* not expected \(batch_stats"),
        ({}, {"folded": "perhaps"}, "damaged metadata"),
        ({}, {"format_version": "1"}, "weight format '1', this version reads '2'"),
        ({}, {"levels": "layer1,stage9"}, "damaged metadata .levels"),
        ({}, {"levels": "layer1,layer3"}, "damaged metadata .levels"),
        ({}, {"preprocessing": "[]"}, "damaged metadata"),
        ({}, {"variant": '{"epsilon": 0.0}'}, "damaged metadata"),
        ({}, {"variant": '{"epsilon": 1}'}, "damaged metadata"),
        ({}, {"variant": '{"padding": "valid"}'}, "damaged metadata"),
        ({}, {"variant": '{"padding": 0}'}, "damaged metadata"),
        ({}, {"variant": '{"stride": 2}'}, "damaged metadata"),
        ({}, {"variant": '{"padding": "same"}'}, "resnet18 pads symmetrically, not by 'same'"),
        ({}, {"preprocessing": '{"mean": [0, 0], "std": [1, 1]}'}, "damaged metadata"),
        ({}, {"preprocessing": '{"mean": [0, 0, 0], "std": [1, 0, 1]}'}, "damaged metadata"),
        (
            {},
            {"architecture": "resnet1001"},
            "holds 'resnet1001', which this version does not know",
        ),
    ],
)
def test_damage_is_named_in_one_line(path, arrays, strings, message):
    edit(path, arrays=arrays, strings=strings)
    with pytest.raises(InputError, match=message) as caught:
        load_backbone(path, levels=("layer1",))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("keep", [0, 7, 5000])
def test_truncated_file_is_refused(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_backbone(path)


def test_foreign_safetensors_are_refused_with_the_command_that_converts(path):
    save_file({"conv1.weight": np.ones(3, np.float32)}, path)
    with pytest.raises(InputError, match=r"python -m ports convert NAME resnet18.safetensors"):
        load_backbone(path)


def test_long_lists_of_differences_are_cut():
    loaded = {"params": {f"extra{i}": np.ones(1) for i in range(1000)}}
    template = {"params": {f"want{i}": np.ones(1) for i in range(1000)}}
    with pytest.raises(InputError, match=r"1000 missing .* 996 more.*1000 not expected") as caught:
        weights.merge_strict(loaded, template)
    assert len(str(caught.value)) < 400


def test_file_of_another_architecture_is_refused_by_name(path, tmp_path):
    path.rename(tmp_path / "resnet34.safetensors")
    with pytest.raises(InputError, match=r"holds resnet18, not resnet34"):
        load_backbone("resnet34", folder=tmp_path)


def test_find_looks_in_folder_then_environment_then_working_directory(tmp_path, monkeypatch):
    # As in an installed package: no checkout beside it.
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "site" / "a" / "b" / "weights.py"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JAXAD_WEIGHTS", raising=False)
    with pytest.raises(InputError, match=r"python -m ports convert vgg16 FILE"):
        weights.find("vgg16", tmp_path / "folder")

    for place in ("ports/weights", "site/ports/weights", "environment", "folder"):
        file = tmp_path / place / "vgg16.safetensors"
        file.parent.mkdir(parents=True)
        file.touch()
        if place == "environment":
            monkeypatch.setenv("JAXAD_WEIGHTS", str(file.parent))
        assert weights.find("vgg16", tmp_path / "folder").resolve() == file


def test_find_takes_paths_and_refuses_what_it_does_not_know(path, tmp_path, monkeypatch):
    assert weights.find(path) == path
    monkeypatch.chdir(tmp_path)
    assert weights.find("resnet18.safetensors").resolve() == path
    with pytest.raises(InputError, match=r"other/resnet18: no such weight file"):
        weights.find("other/resnet18")
    with pytest.raises(InputError, match=r"no backbone 'resnet19'; choose from resnet18, resnet34"):
        weights.find("resnet19")


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert weights.sha256(tmp_path / "abc") == digest


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_random_backbones_have_hes_scale(name):
    level = {"resnet18": "layer2", "efficientnet_lite0": "stage3"}[name]
    backbone, first = init_backbone(name, jax.random.key(0), levels=(level,))
    _, again = init_backbone(name, jax.random.key(0), levels=(level,))
    _, other = init_backbone(name, jax.random.key(1), levels=(level,))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert list(backbone.levels) == [level]
    assert backbone.preprocess == ARCHITECTURES[name].preprocess
    flat, flat_other = (flatten_dict(jax.device_get(v), sep="/") for v in (first, other))
    for path, array in flat.items():
        if path.endswith("bias"):
            assert not np.any(array), path
            continue
        assert np.any(array != flat_other[path]), path
        kh, kw, _, outputs = array.shape
        fan_out = kh * kw * (1 if "depthwise" in path else outputs)
        ratio = np.std(array) / np.sqrt(2 / fan_out)
        assert abs(ratio - 1) < 4 / np.sqrt(2 * array.size), path


def test_metadata_survives_its_strings():
    strings = METADATA.to_strings()
    assert weights.Metadata.from_strings(strings, path=Path("x")) == METADATA
    assert all(isinstance(value, str) for value in strings.values())
    folded = dataclasses.replace(METADATA, folded=True)
    assert weights.Metadata.from_strings(folded.to_strings(), path=Path("x")) == folded
    assert strings["format_version"] == weight_file.FORMAT


def test_loaded_arrays_fit_the_module(path):
    _, loaded = load_backbone(path, levels=("layer2",))
    template = weights.shapes(ARCHITECTURES["resnet18"], levels=("layer2",), folded=True)
    assert weights.merge_strict(loaded, template) is loaded
    flat = flatten_dict(template)
    del flat[next(iter(flat))]
    with pytest.raises(InputError, match="1 not expected"):
        weights.merge_strict(loaded, unflatten_dict(flat))
