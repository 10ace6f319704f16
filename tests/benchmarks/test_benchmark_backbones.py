"""The program behind the table of docs/backbones.md."""

import json

import pytest

from benchmarks.backbones import gflop, main, parameters, span
from jaxad.backbones import ARCHITECTURES


def test_a_row_holds_what_was_measured(tmp_path, capsys):
    main(["--only", "resnet18", "--markdown", "--json", str(tmp_path / "rows.json")])
    head, rule, row = capsys.readouterr().out.splitlines()
    assert head.count("|") == rule.count("|") == row.count("|")
    for cell in ("resnet18", "layer1, 2, 3", "torchvision IMAGENET1K_V1", "2.78 of 11.17"):
        assert f"| {cell} |" in row

    written = json.loads((tmp_path / "rows.json").read_text())
    assert written.keys() == {"machine", "date", "backbones"}
    numbers = written["backbones"]["resnet18"]
    assert numbers["source"].endswith("resnet18-f37072fd.pth")
    assert numbers["licences"][0] == "BSD-3-Clause"
    assert set(numbers["namings"]) == set(numbers["parity_error"]) >= {"torchvision", "timm"}
    assert 0 < max(numbers["parity_error"].values()) <= 1e-5
    assert f"{numbers['gflop_at_256']:.2f}" in row


# torchvision's own count at 224 px for the whole network, in 10^9 multiply-adds, which takes zeros
# around an image for pixels and has the classifier.
@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet18", 1.814),
        ("wide_resnet50_2", 11.398),
        ("vgg16_bn", 15.47),
        ("deit_small_patch16", 4.6),  # of the paper
    ],
)
def test_work_is_about_the_published_one(name, published):
    arch = ARCHITECTURES[name]
    assert gflop(arch, tuple(arch.levels), size=224) == pytest.approx(2 * published, rel=0.08)


def test_only_what_the_levels_need_is_counted():
    arch = ARCHITECTURES["vgg16"]
    assert parameters(arch, ("block1",)) == (27 + 1) * 64 + (9 * 64 + 1) * 64
    work = 2 * 224**2 * 64 * 9 * (3 + 64)
    assert gflop(arch, ("block1",), size=224) == pytest.approx(work / 1e9, rel=0.01)


def test_levels_of_one_stem_are_named_in_short():
    assert span(("stage1", "stage2", "stage5")) == "stage1, 2, 5"
    assert span(("block3",)) == "block3"
