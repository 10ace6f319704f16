"""PaDiM (Defard et al., 2020): `configs/padim.py:resnet18|wide_resnet50_2`.

    jaxad train --config configs/padim.py --workdir runs/padim --config.data.root=MVTEC_AD

100 of ResNet-18's 448 channels, or 550 of Wide ResNet-50-2's 1,792, as in the paper. Means over
MVTec AD of its best known code, image AUROC / pixel AUROC: .905 / .965 (bottle .996 / .981) and
.955 / .973. That code resizes to 256 pixels and crops the middle 224, where a defect near the
border is not seen; here the whole image is resized to 224. What we measure: docs/baselines.md.
"""

from ml_collections import ConfigDict

from jaxad.config import default_config

SETTINGS = {"resnet18": 100, "wide_resnet50_2": 550}


def get_config(setting: str = "resnet18") -> ConfigDict:
    """Return one network's configuration."""
    if setting not in SETTINGS:
        raise ValueError(f"settings are {', '.join(SETTINGS)}, not {setting!r}")
    config = default_config("padim")
    config.data.image_size, config.data.resize = (224, 224), "bilinear"
    config.data.calibration = 0.0  # as published: all normal photos are learnt
    config.method.backbone, config.method.dimensions = setting, SETTINGS[setting]
    return config
