"""SimpleNet in minutes on a CPU: drawn positions of cached features of a small network.

    jaxad train --config configs/simplenet_fast.py --workdir runs/simplenet --config.data.root=DIR

ResNet-18 instead of Wide ResNet-50-2, 384 patch features instead of 1536, 400 steps of 2,048
positions. The noise is a third of the features' root mean square (0.16): the published 0.015 is a
tenth of it, and takes longer to learn from. The adaptor keeps the published rate, the discriminator
has ten times that: an adaptor that learns as fast maps defects onto what is normal
(docs/adapted_moe.md).
"""

from ml_collections import ConfigDict

from jaxad.config import default_config


def get_config() -> ConfigDict:
    """Return the fast configuration."""
    config = default_config("simplenet")
    config.data.resize = "bilinear"
    m, train = config.method, config.train
    m.backbone = "resnet18"
    m.embedding, m.hidden = 384, 256
    m.noise, m.learning_rate = 0.05, (1e-4, 2e-3)
    train.steps, train.positions = (400,), (2048,)
    train.cache_dtype = "float16"
    config.score.batch_size = 16
    return config
