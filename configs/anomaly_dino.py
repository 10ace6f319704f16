"""AnomalyDINO (Damm et al., WACV 2025): `configs/anomaly_dino.py:reference|fine`.

    jaxad train --config configs/anomaly_dino.py --workdir runs/anomaly_dino \
        --config.data.root=MVTEC_AD

`reference` is the authors' code at 448 pixels with all normal photos as they are, `fine` the same
at 672, their other size. They also learn of few photos (image AUROC .966 of one), each turned by
eight angles; here photos are turned beforehand. For some categories they leave the background out:
`--config.method.foreground=10`. Which ones is a choice for each; none is made here.

The weights of DINOv2 have to be converted first (docs/backbones.md). We have not had them:
**accuracy is not measured.** What is, is that the arithmetic is the authors' (docs/baselines.md).
"""

from ml_collections import ConfigDict

from jaxad.config import default_config

SETTINGS = ("reference", "fine")


def get_config(setting: str = "reference") -> ConfigDict:
    """Return one setting's configuration."""
    if setting not in SETTINGS:
        raise ValueError(f"settings are {', '.join(SETTINGS)}, not {setting!r}")
    config = default_config("anomaly_dino")
    size = 448 if setting == "reference" else 672  # pixels: 32 x 32 or 48 x 48 patches
    config.data.image_size = (size, size)
    config.data.calibration = 0.0  # as published: all normal photos are kept
    return config
