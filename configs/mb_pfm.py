"""MB-PFM as published (Wan et al., 2022): ResNet-34 to ResNet-50, three levels, 200 epochs.

    jaxad train --config configs/mb_pfm.py --workdir runs/mb_pfm --config.data.root=MVTEC_AD

The recipe is the authors' code: Adam with L2 1e-5, learning rate 3e-3 at level 1 and 3e-4 at levels
2 and 3, batches of 8 whole images, last epoch. Their log has, as means of the 15 categories of
MVTec AD, image AUROC .9745, pixel AUROC .9728 and AUPRO@0.3 .9303 (bottle: 1.000 / .984 / .954).
Needs converted `resnet34` and `resnet50` weights: python -m ports convert resnet34 FILE.
"""

from ml_collections import ConfigDict

from jaxad.config import default_config


def get_config() -> ConfigDict:
    """Return the published configuration."""
    config = default_config("pfm")
    config.data.resize = "lanczos"  # the authors' code
    config.data.calibration = 0.0  # as published: all normal photos are trained on
    return config
