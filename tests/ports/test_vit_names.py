"""Names of vision transformers' arrays; that features are right is shown by the parity test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from jaxad.backbones import load_backbone
from jaxad.core import InputError
from ports import vit_names
from ports.__main__ import main
from ports.sources import sources_of

Arrays = dict[str, np.ndarray]


def state_of(architecture: str, *, hub: bool = False) -> Arrays:
    """A file that ends after the first block."""
    dino, registers = architecture.startswith("dinov2"), architecture.endswith("_reg")
    side, positions = (14, 37 * 37) if dino else (16, 14 * 14)
    c = 384
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, c),
        "pos_embed": (1, positions + (hub or not registers), c),
        "patch_embed.proj.weight": (c, 3, side, side),
        "patch_embed.proj.bias": (c,),
    }
    for layer, outputs, inputs in (
        ("attn.qkv", 3 * c, c),
        ("attn.proj", c, c),
        ("mlp.fc1", 4 * c, c),
        ("mlp.fc2", c, 4 * c),
    ):
        shapes |= {f"blocks.0.{layer}.weight": (outputs, inputs)}
        shapes |= {f"blocks.0.{layer}.bias": (outputs,)}
    for layer in ("norm1", "norm2"):
        shapes |= dict.fromkeys((f"blocks.0.{layer}.weight", f"blocks.0.{layer}.bias"), (c,))
    if dino:
        shapes |= dict.fromkeys(("blocks.0.ls1.gamma", "blocks.0.ls2.gamma"), (c,))
    if hub:
        shapes["mask_token"] = (1, c)
    if registers:
        shapes["register_tokens" if hub else "reg_token"] = (1, 4, c)
    random = np.random.default_rng(0)
    return {name: random.normal(0, 0.02, s).astype(np.float32) for name, s in shapes.items()}


def test_arrays_are_taken_from_where_they_are() -> None:
    state = state_of("dinov2_vits14", hub=True)
    found = vit_names.convert_hub("dinov2_vits14", state)
    assert found.levels == ("block1",)
    assert found.variant.epsilon == 1e-6
    params = found.variables["params"]
    kernel = state["patch_embed.proj.weight"]
    np.testing.assert_array_equal(params["patch_embed"]["kernel"], kernel.transpose(2, 3, 1, 0))
    block = params["block1"]
    np.testing.assert_array_equal(block["fc1"]["kernel"], state["blocks.0.mlp.fc1.weight"].T)
    np.testing.assert_array_equal(block["scale2"], state["blocks.0.ls2.gamma"])
    np.testing.assert_array_equal(block["norm1"]["scale"], state["blocks.0.norm1.weight"])


@pytest.mark.parametrize("name", ["dinov2_vits14", "dinov2_vits14_reg"])
def test_the_class_token_comes_with_its_position(name: str) -> None:
    state = state_of(name, hub=True)
    params = vit_names.convert_hub(name, state)[0]["params"]
    first, rest = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
    np.testing.assert_array_equal(params["class_token"], state["cls_token"] + first)
    np.testing.assert_array_equal(params["position"], rest)
    if name.endswith("_reg"):
        np.testing.assert_array_equal(params["registers"], state["register_tokens"])


def test_with_registers_timm_has_added_it() -> None:
    state = state_of("dinov2_vits14_reg")
    params = vit_names.convert("dinov2_vits14_reg", state)[0]["params"]
    np.testing.assert_array_equal(params["class_token"], state["cls_token"])
    np.testing.assert_array_equal(params["position"], state["pos_embed"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cls_token": None}, "1 missing .cls_token"),
        ({"pos_embed": None}, "1 missing .pos_embed"),
        ({"pos_embed": np.zeros((1, 257, 384))}, r"pos_embed is \(1, 256, 384\), not \(1, 1369"),
        ({"pos_embed": np.zeros((1, 1370, 384), int)}, r"pos_embed is \(1, 1370, 384\), not"),
        ({"blocks.0.attn.qkv.weight": np.zeros((384, 1152))}, r"not \(1152, 384\)"),
        ({"cls_token": np.full((1, 1, 384), np.inf)}, "cls_token holds values that are not finite"),
        ({"reg_token": np.zeros((1, 4, 384))}, "1 unknown .reg_token"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change: Arrays, said: str) -> None:
    state = {**state_of("dinov2_vits14", hub=True), **change}
    state = {name: array for name, array in state.items() if array is not None}
    with pytest.raises(InputError, match=said):
        vit_names.convert_hub("dinov2_vits14", state)


def test_networks_without_such_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"hub names cover .*; not 'deit_small_patch16'"):
        vit_names.convert_hub("deit_small_patch16", {})


def test_a_file_becomes_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JAXAD_WEIGHTS", str(tmp_path))
    source = tmp_path / "dinov2_vits14_reg4_pretrain.safetensors"
    safetensors.numpy.save_file(state_of("dinov2_vits14_reg", hub=True), source)
    assert main(["convert", "dinov2_vits14_reg", str(source)]) == 0
    out = capsys.readouterr().out
    assert "dinov2_hub" in out
    assert "Apache-2.0 (assumed)" in out
    backbone, variables = load_backbone("dinov2_vits14_reg", levels=("block1",))
    photo = np.zeros((1, 28, 42, 3), np.uint8)
    found = backbone.features(variables, photo)["block1"]
    assert found.shape == (1, 2, 3, 384)
    assert np.isfinite(found).all()


def test_files_without_a_digest_are_not_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    url = sources_of("dinov2_vitb14_reg")[0].url
    assert url.endswith("/dinov2/dinov2_vitb14/dinov2_vitb14_reg4_pretrain.pth")
    assert main(["fetch", "dinov2_vitb14_reg"]) == 2
    said = capsys.readouterr().err
    assert f"{url}: its publisher states no digest" in said
    assert "ports convert dinov2_vitb14_reg dinov2_vitb14_reg4_pretrain.pth`" in said
    assert main(["convert", "dinov2_vitb14_reg"]) == 2
    assert "fetch" not in capsys.readouterr().err
