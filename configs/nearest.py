"""The plain judge: is there a normal photo that looks alike? A whole photo's nearest neighbours.

    jaxad train --config configs/nearest.py --workdir runs/nearest --config.data.root=DIR

SPADE's image score alone: the mean of 1 - cosine to the 5 nearest training photos, by the square
roots of the means over positions of EfficientNet-Lite2's head. A method that is beaten by it has
not understood the photos. There is no map (it is the image score, everywhere):
`--config.method.levels=stage3,stage5` adds one. What we measure, and how the head was chosen:
docs/baselines.md, docs/field.md.
"""

from ml_collections import ConfigDict

from jaxad.config import default_config


def get_config() -> ConfigDict:
    """Return the judge's configuration."""
    config = default_config("spade")
    m = config.method
    m.backbone, m.levels, m.pooled = "efficientnet_lite2", (), "head"
    m.cosine, m.root = True, True
    return config
