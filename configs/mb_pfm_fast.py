"""MB-PFM in minutes: the same networks and scores as `mb_pfm.py`, a fraction of the arithmetic.

    jaxad train --config configs/mb_pfm_fast.py --workdir runs/fast --config.data.root=MVTEC_AD

Frozen features are computed once. Each step then draws random positions of all training images, one
hierarchy after the other with a budget of its own, under AdamW and a one-cycle schedule, starting
from a zero output layer. One recipe for every data set: nothing is tuned per category.
"""

from ml_collections import ConfigDict

from jaxad.config import default_config


def get_config() -> ConfigDict:
    """Return the fast configuration."""
    config = default_config("pfm")
    config.data.resize = "lanczos"  # as mb_pfm.py
    method, train = config.method, config.train
    method.source = "resnet18"
    method.target = "resnet50_keras"
    method.latent = (200, 400, 400)  # c of hierarchy 1, 2, 3
    method.learning_rate = (3e-3, 1e-3, 1e-3)  # peak, of hierarchy 1, 2, 3
    method.one_cycle = True
    method.decoupled_weight_decay = True
    method.zero_output = True
    method.top_share = 0.01  # of the pixels: a mean is steadier than the maximum of one
    train.steps = (200, 300, 1200)  # of hierarchy 1, 2, 3: deeper levels want longer
    train.positions = (2048, 1024, 1024)  # a step
    return config
