"""Which framework named the arrays of a file."""

import functools

import numpy as np
import pytest

from jaxad.backbones import ARCHITECTURES
from jaxad.core import InputError
from ports import torchvision_names
from ports.namings import NAMINGS, choose
from ports.parity import golden_cases

PAIRS = [(naming, name) for naming, row in NAMINGS.items() for name in row.architectures]
B4 = "efficientnet_b4"


@functools.cache
def state(naming, architecture):
    """Array names; what the arrays hold does not matter."""
    return dict.fromkeys(golden_cases()[naming, architecture].arrays, np.zeros(()))


def two_kinds(naming, architecture):
    """Whether timm has a second network with these arrays."""
    return naming in ("timm", "timm_tf") and architecture.startswith("efficientnet")


def refused(*arguments, **settings):
    with pytest.raises(InputError) as caught:
        choose(*arguments, **settings)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 500
    return said


def test_every_architecture_has_a_naming():
    assert {name for _, name in PAIRS} == set(ARCHITECTURES)
    assert list(NAMINGS) == [
        "torchvision",
        "dinov2_hub",
        "timm",
        "timm_tf",
        "efficientnet_pytorch",
        "keras",
        "efficientad",
    ]
    for row in NAMINGS.values():
        assert str(row) == f"{row.licence} ({row.owner})"


@pytest.mark.parametrize(("naming", "name"), PAIRS)
def test_names_tell_the_naming(naming, name):
    alike = {*torchvision_names.RESNETS, *torchvision_names.VGGS, "dinov2_vits14", "dinov2_vitb14"}
    if two_kinds(naming, name):
        assert "--naming timm or --naming timm_tf" in refused(name, state(naming, name))
    else:
        want = naming
        if naming == "timm" and name in alike:
            want = "dinov2_hub" if name.startswith("dinov2") else "torchvision"
        assert choose(name, state(naming, name), file_name="model.pth") == want


@pytest.mark.parametrize(
    ("file_name", "naming"),
    [
        ("tf_efficientnet_b4_ns-d6313a46.pth", "timm_tf"),
        ("tf_efficientnet_b4.in1k.safetensors", "timm_tf"),
        ("efficientnet_b4_ra2_320-7eb33cd5.pth", "timm"),
        ("efficientnet_b4.safetensors", "timm"),
    ],
)
def test_file_name_tells_the_two_kinds_of_timm_apart(file_name, naming):
    assert choose(B4, state("timm", B4), file_name=file_name) == naming


def test_names_of_arrays_go_before_the_name_of_the_file():
    names = state("efficientnet_pytorch", B4)
    assert choose(B4, names, file_name="tf_efficientnet_b4.pth") == "efficientnet_pytorch"


def test_config_goes_before_the_name_of_the_file():
    names = state("timm", B4)
    said = {"architecture": "tf_efficientnet_b4", "num_classes": 1000}
    assert choose(B4, names, config=said) == "timm_tf"
    assert choose(B4, names, config=said, file_name="efficientnet_b4.pth") == "timm_tf"
    said = {"architecture": "efficientnet_b4"}
    assert choose(B4, names, config=said, file_name="tf_efficientnet_b4.pth") == "timm"
    assert choose("resnet50", state("timm", "resnet50"), config={"architecture": "resnet50"}) == (
        "timm"
    )


def test_config_of_something_else_is_no_evidence():
    names = state("timm", B4)
    for config in ({}, {"architectures": ["ViT"]}, {"architecture": "my_net"}):
        assert "nothing tells" in refused(B4, names, config=config)
        assert choose(B4, names, config=config, file_name="tf_efficientnet_b4.pth") == "timm_tf"
        assert choose("resnet18", state("timm", "resnet18"), config=config) == "torchvision"


def test_config_of_another_network_is_refused():
    said = refused(B4, state("timm", B4), config={"architecture": "tf_efficientnet_b3"})
    assert said == "the config.json beside the file says tf_efficientnet_b3, not efficientnet_b4"
    said = refused(
        "resnet50", state("timm", "resnet50"), config={"architecture": "wide_resnet50_2"}
    )
    assert "says wide_resnet50_2, not resnet50" in said


def test_a_naming_that_is_given_is_only_checked():
    for naming in ("timm", "timm_tf", "torchvision"):
        assert choose(B4, state("timm", B4), naming=naming, file_name="x") == naming
    said = refused("resnet18", {}, naming="keras")
    assert said == "no naming 'keras' for resnet18; known: torchvision, timm"
    assert "no naming 'x' for resnet18" in refused("resnet18", {}, naming="x")
    assert "for alexnet; known: none" in refused("alexnet", {}, naming="timm")


def test_names_that_nobody_has():
    assert "(none at all) have names of no known naming" in refused("resnet18", {})
    names = dict.fromkeys([f"params/blocks_{i}/conv/kernel" for i in range(99)], np.zeros(()))
    said = refused(B4, names)
    assert "95 more) have names of no known naming; is it a file of efficientnet_b4?" in said


def test_names_of_a_framework_that_has_no_such_network():
    said = refused("resnet18", state("efficientnet_pytorch", B4))
    assert "named as those of efficientnet_pytorch, which do not cover resnet18" in said
    said = refused("efficientnet_lite0", state("keras", B4))
    assert "named as those of keras, which do not cover efficientnet_lite0" in said


def test_the_classifier_of_timms_vggs_tells_them_from_torchvisions():
    names = state("timm", "vgg16_bn")
    head = {"pre_logits.fc1.weight": np.zeros(()), "head.fc.weight": np.zeros(())}
    assert choose("vgg16_bn", names | head) == "timm"
    assert choose("vgg16_bn", names | {"classifier.0.weight": np.zeros(())}) == "torchvision"


def test_a_file_that_ends_after_a_stage_is_told():
    """What is there of the beginning is enough."""
    for naming in ("torchvision", "efficientnet_pytorch", "keras"):
        first = dict(list(state(naming, B4).items())[:12])
        assert choose(B4, first) == naming
