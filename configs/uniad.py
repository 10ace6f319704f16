"""UniAD (You et al., NeurIPS 2022): `configs/uniad.py:reference|cpu`.

    jaxad train --config configs/uniad.py --workdir runs/uniad --config.data.root=MVTEC_AD

`reference` is the authors' code for MVTec AD, one model for all categories: EfficientNet-B4, 224
pixels, 1000 epochs. Their means, image AUROC / pixel AUROC: .965 / .968 (bottle .997 / .981), at
the best of 100 evaluations on the test photos; here the last step counts. They train on 8 devices
with 8 images each (README; the batch of one is 8, too), which is 64 images a step here. It needs
converted weights (python -m ports fetch efficientnet_b4) and an accelerator; we have not made a
full run. One model a category: `--config.data.one_for_all=False`.

`cpu` is in minutes on two cores, one model a category. What we measure: docs/reconstruction.md.
"""

from ml_collections import ConfigDict

from jaxad.config import default_config

SETTINGS = ("reference", "cpu")


def get_config(setting: str = "reference") -> ConfigDict:
    """Return one setting's configuration."""
    if setting not in SETTINGS:
        raise ValueError(f"settings are {', '.join(SETTINGS)}, not {setting!r}")
    config = default_config("uniad")
    config.data.resize = "bilinear"
    m, train = config.method, config.train
    config.data.image_size = (224, 224)
    if setting == "reference":
        config.data.one_for_all = True
        config.data.calibration = 0.0  # as published: all normal photos are trained on
        train.epochs, train.batch_size = 1000, 64  # 8 devices with 8 images each
        return config
    m.backbone = "resnet18"  # EfficientNet-Lite's features are 10 times longer: slower to learn
    m.width, m.inner, m.dropout = 128, 512, 0.0
    m.learning_rate, m.clip, m.one_cycle, m.zero_output = 3e-3, 1.0, True, True
    train.steps, train.batch_size = (400,), 8
    config.score.batch_size = 16
    return config
