"""A run is told to be the published one only where it is."""

from __future__ import annotations

import pytest

from jaxad.config import load_file
from jaxad.report.papers import (
    ADAPTED_MOE,
    AFRAD_CIFAR10,
    AFRAD_MVTEC,
    AFRAD_VISA,
    PFM,
    SIMPLENET,
    Paper,
)
from jaxad.runs.published import beside


@pytest.mark.parametrize(
    "paper",
    [PFM, AFRAD_MVTEC, AFRAD_VISA, SIMPLENET, *AFRAD_CIFAR10.values(), *ADAPTED_MOE.values()],
)
def test_shipped_configurations_follow_their_papers(paper: Paper) -> None:
    config = load_file(paper.config)
    config.data.root, config.train.seed, config.report.examples = "/elsewhere", 1, 3
    found = beside(config)
    assert found is not None
    assert found.paper is paper
    assert found.differences == ()


def test_what_differs_is_named() -> None:
    config = load_file("mb_pfm")
    config.train.epochs = 20
    config.method.bidirectional = False
    config.data.categories = "bottle"  # a detector of its own
    found = beside(config)
    assert found is not None
    assert found.differences == (
        "method.bidirectional False instead of True",
        "train.epochs 20 instead of 200",
    )
    config = load_file("afrad:mvtec")
    config.data.categories = "bottle"  # one detector of fewer categories
    found = beside(config)
    assert found is not None
    assert found.differences == ("data.categories 'bottle' instead of ''",)
    assert beside(load_file("demo")) is None
