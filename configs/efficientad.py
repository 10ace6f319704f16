"""EfficientAD-S (Batzner et al., WACV 2024), with a teacher that is distilled here.

    jaxad train --config configs/efficientad.py --workdir runs/ead --config.data.root=MVTEC_AD

256 pixels, one photo a step, 70,000 steps of student and autoencoder, as the best known code
(nelson1425/EfficientAd) has it. There the teacher was distilled on ImageNet, from Wide ResNet-101,
and ImageNet's photos make the penalty: mean image AUROC of MVTec AD .991 with the larger network.
Here the teacher learns ResNet-18's features on the training photos for 10,000 steps, and the
penalty takes the photos of a folder, `--config.method.penalty=FOLDER`, if one is named. It wants an
accelerator; we have not run it to its end (docs/from_pixels.md).
"""

from ml_collections import ConfigDict

from jaxad.config import default_config


def get_config() -> ConfigDict:
    """Return the configuration."""
    config = default_config("efficientad")
    config.data.resize = "bilinear"
    config.train.steps, config.train.batch_size = (10_000, 70_000), 1
    return config
