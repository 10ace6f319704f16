"""DRAEM (Zavrtanik et al., ICCV 2021): `configs/draem.py:reference|fast`.

    jaxad train --config configs/draem.py --workdir runs/draem --config.data.root=MVTEC_AD

`reference` is the authors' code (VitjanZ/DRAEM): 256 pixels, 700 epochs in batches of 8, Adam 1e-4.
There, defects are made of the textures of DTD: name its folder, `--config.method.textures=FOLDER`;
without one they are generated. It wants an accelerator. `fast` is for a CPU: networks of an eighth
and a quarter of the width, 500 steps of 8 photos at ten times the rate, photos as they are.
We have trained neither yet (docs/from_pixels.md). It needs no converted weights.
"""

from ml_collections import ConfigDict

from jaxad.config import default_config

SETTINGS = ("reference", "fast")


def get_config(setting: str = "reference") -> ConfigDict:
    """Return one setting's configuration."""
    if setting not in SETTINGS:
        raise ValueError(f"settings are {', '.join(SETTINGS)}, not {setting!r}")
    config = default_config("draem")
    train = config.train
    config.data.resize = "bilinear"
    config.data.calibration = 0.0  # as published
    train.epochs, train.batch_size = 700, 8
    if setting == "fast":
        config.data.calibration = default_config("draem").data.calibration
        train.steps = (500,)
        config.method.width, config.method.telling_width = 16, 16
        config.method.learning_rate, config.method.turn_share = 1e-3, 0.0
    return config
