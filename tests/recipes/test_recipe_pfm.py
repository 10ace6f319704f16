"""From a configuration to PFM: what does not fit together is refused."""

import pytest

from jaxad.config import default_config
from jaxad.core import InputError
from jaxad.recipes.build import build_backbones, models


def test_networks_of_other_levels_are_refused() -> None:
    config = default_config("pfm")
    config.method.random_weights = True
    config.method.source = config.method.target = "resnet18"
    config.method.latent, config.method.levels = (8, 8, 8), (2, 3)
    backbones = build_backbones(config)
    assert models(config, backbones)(0).phases
    config.method.levels = (3,)
    with pytest.raises(InputError, match=r"built for the levels layer2, layer3, .* is \(3,\)"):
        models(config, backbones)(0)
