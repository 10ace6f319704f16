"""RD4AD (Deng and Li, CVPR 2022): `configs/rd4ad.py:reference|resnet18`.

    jaxad train --config configs/rd4ad.py --workdir runs/rd4ad --config.data.root=MVTEC_AD

`reference` is the authors' code: Wide ResNet-50-2, 256 pixels, 200 epochs of batches of 16; the
last step counts. anomalib's figures with that network, image AUROC / pixel AUROC: mean .985 / .969,
bottle 1.000 / .984. It needs converted weights (python -m ports fetch wide_resnet50_2) and an
accelerator; we have not made a full run.

`resnet18` is for a CPU. What we measure: docs/reconstruction.md.
"""

from ml_collections import ConfigDict

from jaxad.config import default_config

SETTINGS = ("reference", "resnet18")


def get_config(setting: str = "reference") -> ConfigDict:
    """Return one setting's configuration."""
    if setting not in SETTINGS:
        raise ValueError(f"settings are {', '.join(SETTINGS)}, not {setting!r}")
    config = default_config("rd4ad")
    config.data.resize = "bilinear"
    config.train.batch_size = 16  # images
    if setting == "reference":
        config.data.calibration = 0.0  # as published: all normal photos are trained on
        config.train.epochs = 200
        return config
    config.method.backbone = "resnet18"
    config.train.steps, config.train.batch_size = (80,), 8
    config.score.batch_size = 16
    return config
