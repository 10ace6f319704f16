import numpy as np
import pytest

from jaxad.report.papers import (
    ADAPTED_MOE,
    AFRAD_CIFAR10,
    AFRAD_MVTEC,
    AFRAD_VISA,
    PFM,
    Paper,
    published,
)


@pytest.mark.parametrize(
    ("paper", "within"), [(PFM, 0.002), (AFRAD_MVTEC, 0.055), (AFRAD_VISA, 0.055)]
)
def test_printed_means_are_those_of_the_rows(paper: Paper, within: float) -> None:
    """A slip of the pen in a table of 45 figures is found."""
    rows = np.array([*paper.categories.values()], float)
    mean = np.array(paper.mean, float)
    # Of the log two decimals of a percent are kept, of the tables one is printed.
    np.testing.assert_allclose(rows.mean(axis=0), mean, atol=within)


def test_what_was_published() -> None:
    assert published("pfm", "mvtec_ad", "bottle") is PFM
    assert published("afrad", "visa", "") is AFRAD_VISA
    assert published("afrad", "cifar10", "02468") is AFRAD_CIFAR10["02468"]
    assert published("adapted_moe", "texture_ad", "metal") is ADAPTED_MOE["metal"]
    for nothing in (("pfm", "visa", ""), ("afrad", "cifar10", ""), ("own.method", "mvtec_ad", "")):
        assert published(*nothing) is None
