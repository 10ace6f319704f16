"""Adapted-MoE: `configs/adapted_moe.py:cloth|wafer|metal|magnetic_tile`.

    jaxad train --config configs/adapted_moe.py:cloth --workdir runs/cloth --config.data.root=DIR

The first three follow the paper on Texture-AD (layout `texture_ad`; name the unseen subclasses by
`--config.data.test_subclasses`: the paper does not): Wide ResNet-50-2, 160 epochs of batches of 8,
rates 1e-4 and 2e-4, noise 0.015, top 4 experts on cloth. Metal is trained without router and
normalisation, as its published figures were (Table 3). Published gains over SimpleNet, image /
pixel AUROC in points: cloth +3.12 / +16.3, wafer +2.18 / +1.57, metal +7.20 / +13.9.

`magnetic_tile` is ours, for a CPU: tiles under four exposures, tested on two that were never seen.
Drawn positions of cached features of a small network train every expert.
"""

from ml_collections import ConfigDict

from jaxad.config import default_config

SETTINGS = ("cloth", "wafer", "metal", "magnetic_tile")


def get_config(setting: str = "cloth") -> ConfigDict:
    """Return one setting's configuration."""
    if setting not in SETTINGS:
        raise ValueError(f"settings are {', '.join(SETTINGS)}, not {setting!r}")
    config = default_config("adapted_moe")
    m, train, data = config.method, config.train, config.data
    data.resize = "bilinear"
    data.calibration = 0.0  # as published: all normal photos are trained on
    if setting == "magnetic_tile":
        data.layout = "manifest"
        data.train_subclasses, data.test_subclasses = "exp1,exp2,exp3,exp4", "exp5,exp6"
        m.backbone, m.levels = "resnet18", ("layer2", "layer3")
        m.embedding, m.hidden, m.router_width = 384, 256, 64
        m.noise, m.learning_rate = 0.016, (1e-4, 2e-3)  # as in simplenet_fast.py, of length 1
        m.router_learning_rate = 3e-3
        train.steps, train.positions = (80, 400), (2048,)
        train.batch_size, train.cache_dtype = 16, "float16"
        config.score.batch_size = 16
        return config
    data.layout, data.categories, data.image_size = "texture_ad", setting, (288, 288)
    train.epochs = 160
    if setting == "cloth":
        m.top_k = 4
    if setting == "metal":
        m.moe = m.normalise_patches = False
    return config
