import dataclasses
import json
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
    strings = METADATA.to_strings() | (strings or {})
    if strings["format_version"] == weight_file.FORMAT:
        strings = {weight_file.CHECKSUM: weight_file.checksum(strings, flat)} | strings
    save_file(flat, path, metadata=strings)


def raw_file(header, content=b""):
    """The bytes of a safetensors file of any header."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


SMALL = {  # fits no network: what `read` alone can judge
    "params": {"a": {"kernel": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)}},
    "batch_stats": {"bn": {"var": np.ones(3, np.float32)}},
}


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


def test_a_failed_write_leaves_the_old_file(path, variables):
    resource = pytest.importorskip("resource")
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # as on a full disk
    try:
        with pytest.raises(InputError, match=r"can not write .*resnet18\.safetensors"):
            weights.write(path, variables, metadata=METADATA)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_write_follows_no_link(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.write_text("theirs")
    path = tmp_path / "folder" / "net.safetensors"
    path.parent.mkdir()
    path.symlink_to(theirs)
    weights.write(path, SMALL, metadata=METADATA)
    assert not path.is_symlink()
    assert theirs.read_text() == "theirs"


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for n in range(8):
        weights.write(tmp_path / f"{n}.safetensors", SMALL, metadata=METADATA)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_any_wrong_bit_is_found(tmp_path):
    """Of the arrays, of what the metadata say, and of what tells arrays and metadata apart."""
    path = tmp_path / "net.safetensors"
    weights.write(path, SMALL, metadata=METADATA)
    data = path.read_bytes()
    weights.read(path)
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"net\.safetensors: ") as caught:
            weights.read(path)
        assert "\n" not in str(caught.value)


def test_the_checksum_is_over_names_types_shapes_and_values():
    strings, array = {"a": "b", "c": "d"}, np.arange(6, dtype=np.float32)
    others = [
        (strings, {"w": array.reshape(2, 3)}),
        (strings, {"w": array.reshape(3, 2)}),
        (strings, {"v": array}),
        (strings, {"w": array + 1}),
        (strings, {"w": array.view(np.int32)}),
        (strings, {"w": array, "v": array}),
        (strings | {"a": "d"}, {"w": array}),
        ({"a": "b"}, {"w": array}),
    ]
    sums = [weight_file.checksum(*other) for other in ((strings, {"w": array}), *others)]
    assert len(set(sums)) == len(sums)
    known = {weight_file.CHECKSUM: "x", **dict(reversed(strings.items()))}
    assert weight_file.checksum(known, {"w": array}) == sums[0]
    # Of files that are out there: another rule is another format.
    assert sums[0] == "e636482bef77d2d51e6f5f9d466192dd205a043c00889c999de4c50eb7978fef"


def test_a_wrong_bit_of_a_kernel_is_named_as_damage(path):
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"does not have the checksum it states; .*convert the"):
        load_backbone(path, levels=("layer1",))


def test_files_of_the_format_before_have_no_checksum_and_are_read(path, variables):
    edit(path, strings={"format_version": "2"})
    loaded, metadata = weights.read(path)
    assert metadata == METADATA
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    for strings in ({"format_version": "2", "sha256": "0" * 64}, {"sha256": "0" * 64}):
        edit(path, strings=strings)
        with pytest.raises(InputError, match=r"missing or out of place|checksum"):
            weights.read(path)
    save_file({"a": np.ones(1, np.float32)}, path, metadata=METADATA.to_strings())
    with pytest.raises(InputError, match="format 3 with sha256 missing"):
        weights.read(path)


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
        (("layer3",), "does not reach layer3; it has layer1, layer2: convert its source again"),
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
        ({}, {"format_version": "1"}, "weight format '1', this version reads 2 and 3"),
        ({}, {"levels": "layer1,stage9"}, "damaged metadata .levels"),
        ({}, {"levels": "layer1,layer3"}, "damaged metadata .levels"),
        ({}, {"preprocessing": "[]"}, "damaged metadata"),
        ({}, {"variant": '{"epsilon": 0.0}'}, "damaged metadata"),
        ({}, {"variant": '{"epsilon": 1}'}, "damaged metadata"),
        ({}, {"variant": '{"padding": "valid"}'}, "damaged metadata"),
        ({}, {"variant": '{"padding": 0}'}, "damaged metadata"),
        ({}, {"variant": '{"stride": 2}'}, "damaged metadata"),
        ({}, {"variant": '{"padding": true}'}, "padding is True"),
        ({}, {"variant": '{"padding": 2.5}'}, "padding is 2.5"),
        ({}, {"variant": '{"padding": ["same"]}'}, "damaged metadata"),
        ({}, {"variant": '{"epsilon": 1e-46}'}, "epsilon is 1e-46"),
        ({}, {"variant": "[" * 1500}, "damaged metadata"),
        ({}, {"variant": "[" * 100_000}, "an entry of more than 2000 characters"),
        ({}, {"source": "x" * 100_000}, "an entry of more than 2000 characters"),
        ({}, {"variant": '{"padding": "same"}'}, "resnet18 pads symmetrically, not by 'same'"),
        ({}, {"preprocessing": '{"mean": [0, 0], "std": [1, 1]}'}, "damaged metadata"),
        ({}, {"preprocessing": '{"mean": [0, 0, 0], "std": [1, 0, 1]}'}, "damaged metadata"),
        ({}, {"preprocessing": '{"mean": 0}'}, "mean is not of three channels"),
        ({}, {"preprocessing": '{"mean": [0, "0", 0]}'}, "mean is '0', no number"),
        ({}, {"preprocessing": '{"mean": [NaN, 0, 0]}'}, "mean is nan, no number"),
        ({}, {"preprocessing": '{"mean": [0, 0, [0]]}'}, "no number"),
        ({}, {"preprocessing": f'{{"mean": [0, 0, 1{"0" * 400}]}}'}, "mean is 1000000"),
        ({}, {"preprocessing": '{"std": [1, 1, Infinity]}'}, "std is inf, no number"),
        ({}, {"preprocessing": '{"std": [1, 1e-46, 1]}'}, "std is 1e-46, no number"),
        ({}, {"preprocessing": '{"std": [1, -1, 1]}'}, "std is -1, no number"),
        ({}, {"preprocessing": '{"std": [1, 1, true]}'}, "std is True, no number"),
        ({}, {"preprocessing": '{"scale": "0.0039"}'}, "scale is '0.0039', no number"),
        ({}, {"preprocessing": '{"scale": NaN}'}, "scale is nan, no number"),
        ({}, {"preprocessing": '{"scale": 0}'}, "scale is 0, no number"),
        ({}, {"preprocessing": '{"scale": [1, 1, 1]}'}, "scale is not"),
        ({}, {"preprocessing": '{"channels": "XYZ"}'}, "channels are 'XYZ', not 'RGB' or"),
        ({}, {"preprocessing": '{"channels": ["RGB"]}'}, "channels are"),
        ({}, {"preprocessing": '{"resize": "psychic"}'}, "no filter 'psychic'; there are"),
        ({}, {"preprocessing": '{"crop": 1}'}, "damaged metadata"),
        ({}, {"preprocessing": "[" * 1500}, "damaged metadata"),
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


@pytest.mark.parametrize(
    ("shape", "bytes_", "says"),
    [
        ([0, 2**62], 0, "no shape of a backbone's array"),
        ([0, 2**40, 2**40], 0, "no shape of a backbone's array"),
        ([2**63, 0], 0, "no shape of a backbone's array"),
        ([0], 0, "no shape of a backbone's array"),
        ([1] * 100, 4, "100 axes"),
        ([1] * 9, 4, "9 axes"),
        ([2**62], 0, "not a readable safetensors file"),
        ([2**32, 2**32], 0, "not a readable safetensors file"),
    ],
)
def test_shapes_that_no_array_has(tmp_path, shape, bytes_, says):
    path = tmp_path / "net.safetensors"
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, bytes_]}
    for version in weight_file.READ:
        strings = METADATA.to_strings() | {"format_version": version}
        if version == weight_file.FORMAT:
            strings[weight_file.CHECKSUM] = "0" * 64
        path.write_bytes(raw_file({"__metadata__": strings, "w": entry}, bytes(bytes_)))
        with pytest.raises(InputError, match=says) as caught:
            weights.read(path)
        assert len(str(caught.value)) < len(str(path)) + 200


def test_names_without_end_and_arrays_without_number(tmp_path):
    path = tmp_path / "net.safetensors"
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    strings = METADATA.to_strings() | {weight_file.CHECKSUM: "0" * 64}
    path.write_bytes(raw_file({"__metadata__": strings, "a/" * 100_000: entry}))
    with pytest.raises(InputError, match="has the endless name 'a/a/") as caught:
        weights.read(path)
    assert len(str(caught.value)) < len(str(path)) + 200
    many = {f"w{i}": entry for i in range(weight_file.MAX_ARRAYS + 1)}
    path.write_bytes(raw_file({"__metadata__": strings, **many}))
    with pytest.raises(InputError, match=r"10001 arrays; no backbone has over 10000"):
        weights.read(path)
    path.write_bytes((2**25).to_bytes(8, "little") + b"{" + b" " * 2**25)
    with pytest.raises(InputError, match="its header takes 33554432 bytes"):
        weights.read(path)


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


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """As in an installed package: no checkout beside it, no environment."""
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "site" / "a" / "b" / "weights.py"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JAXAD_WEIGHTS", raising=False)
    return tmp_path


def place(*folders):
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vgg16.safetensors").touch()


def test_find_looks_beside_the_package_then_in_the_working_directory(bare):
    with pytest.raises(InputError, match=r"no weights of vgg16 in .*JAXAD_WEIGHTS") as caught:
        weights.find("vgg16")
    assert "`python -m ports convert vgg16 FILE`" in str(caught.value)
    for folder in ("ports/weights", "site/ports/weights"):
        place(bare / folder)
        for nothing in (None, ""):
            assert weights.find("vgg16", nothing).resolve().parent == bare / folder


@pytest.mark.parametrize("how", ["folder", "environment"])
def test_a_folder_that_is_named_is_the_only_one(bare, monkeypatch, how):
    """Weights of the same name lie in every other place."""
    place(bare / "ports" / "weights", bare / "site" / "ports" / "weights")
    named = bare / "named"
    if how == "folder":
        place(bare / "environment")
        monkeypatch.setenv("JAXAD_WEIGHTS", str(bare / "environment"))
        asked = named
    else:
        monkeypatch.setenv("JAXAD_WEIGHTS", str(named))
        asked = None
    for call in (weights.find, lambda *args: load_backbone(args[0], folder=args[1])):
        with pytest.raises(InputError, match=rf"there is no folder {named}, so no vgg16 in it"):
            call("vgg16", asked)
    named.mkdir()
    with pytest.raises(InputError, match=rf"no weights of vgg16 in {named}; make them") as caught:
        weights.find("vgg16", asked)
    assert ("--out" in str(caught.value)) == (how == "folder")
    place(named)
    assert weights.find("vgg16", asked) == named / "vgg16.safetensors"


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
    strings = METADATA.to_strings() | {weight_file.CHECKSUM: ""}
    assert weights.Metadata.from_strings(strings, path=Path("x")) == METADATA
    assert all(isinstance(value, str) for value in strings.values())
    folded = dataclasses.replace(METADATA, folded=True)
    again = strings | folded.to_strings()
    assert weights.Metadata.from_strings(again, path=Path("x")) == folded
    assert strings["format_version"] == weight_file.FORMAT


def test_loaded_arrays_fit_the_module(path):
    _, loaded = load_backbone(path, levels=("layer2",))
    template = weights.shapes(ARCHITECTURES["resnet18"], levels=("layer2",), folded=True)
    assert weights.merge_strict(loaded, template) is loaded
    flat = flatten_dict(template)
    del flat[next(iter(flat))]
    with pytest.raises(InputError, match="1 not expected"):
        weights.merge_strict(loaded, unflatten_dict(flat))
