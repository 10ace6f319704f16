"""PatchCore (Roth et al., CVPR 2022): `configs/patchcore.py:SETTING`.

    jaxad train --config configs/patchcore.py --workdir runs/patchcore --config.data.root=MVTEC_AD

`reference` is the authors' code with a bank of 10 %, squared distances and no re-weighting; their
means over MVTec AD, image AUROC / pixel AUROC: .992 / .981, bottle 1.000 / .985. They resize to 256
pixels and crop the middle 224, where a defect near the border is not seen; here the whole image is
resized to 224. `anomalib` is as that library: 256 pixels, all 1,536 channels, distances, weighed by
9 neighbours. It projects to as many numbers as scikit-learn's bound says, 303 for bottle: 300 here.
Both need converted weights: python -m ports fetch wide_resnet50_2

`resnet18` is `anomalib` for a CPU, with the small network and projection to 128 numbers; anomalib's
figures with ResNet-18: mean .973 / .976, bottle 1.000 / .981. What we measure: docs/baselines.md.

`lite` is to start with own parts: the same with EfficientNet-Lite2, whose weights come as a package
(python -m ports convert efficientnet_lite2), and a bank of 1 %.
"""

from ml_collections import ConfigDict

from jaxad.config import default_config

SETTINGS = ("reference", "anomalib", "resnet18", "lite")


def get_config(setting: str = "reference") -> ConfigDict:
    """Return one setting's configuration."""
    if setting not in SETTINGS:
        raise ValueError(f"settings are {', '.join(SETTINGS)}, not {setting!r}")
    config = default_config("patchcore")
    m, data = config.method, config.data
    data.resize = "bilinear"
    if setting == "reference":
        data.image_size = (224, 224)
        data.calibration = 0.0  # as published: all normal photos are kept
        return config
    m.embedding, m.sampler, m.projection = 0, "greedy", 300
    m.squared, m.reweighting = False, 9
    if setting == "anomalib":
        data.calibration = 0.0
        return config
    m.backbone, m.projection = "resnet18", 128
    if setting == "lite":
        m.backbone, m.levels, m.share = "efficientnet_lite2", (), 0.01
    return config
