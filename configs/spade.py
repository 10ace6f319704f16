"""SPADE (Cohen and Hoshen, 2020): `configs/spade.py:reference|resnet18`.

    jaxad train --config configs/spade.py --workdir runs/spade --config.data.root=MVTEC_AD

`reference` is as its best known code has it (byungjae89/SPADE-pytorch): Wide ResNet-50-2, the 5
nearest photos (the paper: 50). That code's means over MVTec AD, image AUROC / pixel AUROC: .854 /
.964, bottle .972 / .970. It resizes to 256 pixels and crops the middle 224, where a defect near the
border is not seen; here the whole image is resized to 224. Needs converted weights: python -m ports
fetch wide_resnet50_2

`resnet18` is for a CPU: a small network, read up to layer3, whose mean tells which photos are near
(`--config.method.pooled=layer4` where the weights reach it). What we measure: docs/field.md.
"""

from ml_collections import ConfigDict

from jaxad.config import default_config

SETTINGS = {"reference": "wide_resnet50_2", "resnet18": "resnet18"}


def get_config(setting: str = "reference") -> ConfigDict:
    """Return one network's configuration."""
    if setting not in SETTINGS:
        raise ValueError(f"settings are {', '.join(SETTINGS)}, not {setting!r}")
    config = default_config("spade")
    config.data.image_size, config.data.resize = (224, 224), "bilinear"
    config.data.calibration = 0.0  # as published: all normal photos are kept
    config.method.backbone = SETTINGS[setting]
    if setting == "resnet18":
        config.method.pooled = "layer3"
    return config
