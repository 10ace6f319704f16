"""SimpleNet (Liu et al., CVPR 2023) by its authors' run.sh: Wide ResNet-50-2, 160 epochs.

    jaxad train --config configs/simplenet.py --workdir runs/simplenet --config.data.root=MVTEC_AD

Published means over MVTec AD, image AUROC / pixel AUROC in percent: 99.6 / 98.1, each category at
the best of 40 evaluations on its test images. Here the last step counts. The reference resizes to
329 pixels and crops the middle 288, where a defect near the border is not seen; here the whole
image is resized to 288. Needs converted weights: python -m ports fetch wide_resnet50_2
"""

from ml_collections import ConfigDict

from jaxad.config import default_config


def get_config() -> ConfigDict:
    """Return the reference's recipe."""
    config = default_config("simplenet")
    config.data.image_size = (288, 288)
    config.data.resize = "bilinear"
    config.data.calibration = 0.0  # as published: all normal photos are trained on
    config.train.epochs = 160
    return config
