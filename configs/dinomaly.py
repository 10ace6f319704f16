"""Dinomaly (Guo et al., CVPR 2025): `configs/dinomaly.py:reference|small`.

    jaxad train --config configs/dinomaly.py --workdir runs/dinomaly --config.data.root=MVTEC_AD

`reference` is the authors' code for MVTec AD, one model for all categories: DINOv2 ViT-B with
registers, 10,000 steps of 16 photos; their means, image AUROC / pixel AUROC / AUPRO: .996 / .984 /
.948. They resize to 448 pixels and crop the middle 392, where a defect near the border is not seen;
here the whole photo is resized to 392. `small` is one model a category on ViT-S, 1,000 steps.

The weights of DINOv2 have to be converted first (docs/backbones.md), and training takes an
accelerator. We have not had them: **accuracy is not measured.** What is, is that the arithmetic is
the authors' (docs/reconstruction.md).
"""

from ml_collections import ConfigDict

from jaxad.config import default_config

SETTINGS = ("reference", "small")


def get_config(setting: str = "reference") -> ConfigDict:
    """Return one setting's configuration."""
    if setting not in SETTINGS:
        raise ValueError(f"settings are {', '.join(SETTINGS)}, not {setting!r}")
    config = default_config("dinomaly")
    config.data.image_size = (392, 392)  # pixels: 28 x 28 patches
    config.train.steps, config.train.batch_size = (10_000,), 16
    if setting == "reference":
        config.data.one_for_all = True
        config.data.calibration = 0.0  # as published: all normal photos are trained on
        return config
    config.method.backbone = "dinov2_vits14_reg"
    config.train.steps = (1000,)
    config.method.easy_steps = 100  # a tenth of the steps, as there
    return config
