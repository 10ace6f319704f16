"""From a configuration to PFM: what does not fit together is refused."""

import pytest

from jaxad.config import default_config
from jaxad.core import InputError
from jaxad.recipes.build import build_backbones, build_method


def test_networks_of_other_levels_are_refused() -> None:
    config = default_config("pfm")
    config.method.random_weights = True
    config.method.source = config.method.target = "resnet18"
    config.method.latent, config.method.levels = (8, 8, 8), (2, 3)
    networks = build_backbones(config).networks
    method, _ = build_method(config, networks)
    assert method is not None
    config.method.levels = (3,)
    with pytest.raises(InputError, match=r"built for the levels layer2, layer3, .* is \(3,\)"):
        build_method(config, networks)
