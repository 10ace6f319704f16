"""STFPM (Wang et al., BMVC 2021): `configs/stfpm.py:reference|fast`.

    jaxad train --config configs/stfpm.py --workdir runs/stfpm --config.data.root=MVTEC_AD

`reference` is the authors' code: ResNet-18, 256 pixels, 100 epochs in batches of 32, a fifth of the
photos held out. There the epoch with the lowest held-out map counts, here the last one. Their
means over MVTec AD, image AUROC / pixel AUROC / AUPRO: .955 / .970 / .928, bottle 1.000 / .988 /
.959. `fast` is for a CPU: 320 steps of 8 photos, and a one-cycle schedule.
What we measure: docs/from_pixels.md. Needs converted weights: python -m ports fetch resnet18
"""

from ml_collections import ConfigDict

from jaxad.config import default_config

SETTINGS = ("reference", "fast")


def get_config(setting: str = "reference") -> ConfigDict:
    """Return one setting's configuration."""
    if setting not in SETTINGS:
        raise ValueError(f"settings are {', '.join(SETTINGS)}, not {setting!r}")
    config = default_config("stfpm")
    train = config.train
    config.data.resize = "bilinear"
    config.data.calibration = 0.0  # as published
    train.epochs, train.batch_size, train.holdout = 100, 32, 0.2
    if setting == "fast":
        config.data.calibration = default_config("stfpm").data.calibration
        train.steps, train.batch_size, train.holdout = (320,), 8, 0.0
        config.method.one_cycle = True
    return config
