"""Adapted-MoE with experts of any method: `configs/adapted_moe_of.py:CONFIGURATION`.

    jaxad train --config configs/adapted_moe_of.py:mb_pfm_fast --workdir runs/moe \
      --config.data.layout=manifest --config.data.root=TILES

CONFIGURATION is that of one detector, such as `mb_pfm_lite` or `patchcore:resnet18`: its method,
its budget and how it reads photos become the expert's, `--config.method.expert.KEY=VALUE` changes
them. A small router stands before it, as in `configs/adapted_moe.py:magnetic_tile`. What it is
worth: docs/adapted_moe.md.
"""

from ml_collections import ConfigDict

from jaxad.config import default_config, load_file

WITHOUT_STEPS = ("patchcore", "padim", "spade", "anomaly_dino")


def get_config(expert: str = "mb_pfm_fast") -> ConfigDict:
    """Return the configuration of experts that are as this one."""
    base = load_file(expert)
    config = default_config(f"adapted_moe:{base.method.name}")
    config.update({name: value for name, value in base.items() if name != "method"})
    m, train = config.method, config.train
    m.expert.update({name: value for name, value in base.method.items() if name != "name"})
    m.adaption = False  # it does not gain: docs/adapted_moe.md
    m.router_width, m.router_learning_rate = 64, 3e-3
    if base.train.steps or base.method.name in WITHOUT_STEPS:
        train.steps = (80, *base.train.steps)  # of the router, of the expert
        train.batch_size = 16  # images a step of the router
    return config
