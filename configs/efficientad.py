"""EfficientAD-S (Batzner et al., WACV 2024): `configs/efficientad.py:published|distilled`.

    jaxad train --config configs/efficientad.py --workdir runs/ead --config.data.root=MVTEC_AD

256 pixels, one photo a step, 70,000 steps of student and autoencoder, as the best known code
(nelson1425/EfficientAd) has it. There the teacher was distilled on ImageNet, from Wide ResNet-101,
and ImageNet's photos make the penalty: mean image AUROC of MVTec AD .991 with the larger network.
`published` takes that teacher: python -m ports convert pdn_small teacher_small.pth
`distilled`, the default, needs ResNet-18 alone: its teacher learns ResNet-18's features on the
training photos for 10,000 steps. The penalty takes the photos of a folder,
`--config.method.penalty=FOLDER`, if one is named. Both want an accelerator; we have not run them to
their end (docs/from_pixels.md).
"""

from ml_collections import ConfigDict

from jaxad.config import default_config

SETTINGS = ("published", "distilled")


def get_config(setting: str = "distilled") -> ConfigDict:
    """Return one setting's configuration."""
    if setting not in SETTINGS:
        raise ValueError(f"settings are {', '.join(SETTINGS)}, not {setting!r}")
    config = default_config("efficientad")
    config.data.resize = "bilinear"
    config.train.steps, config.train.batch_size = (10_000, 70_000), 1
    if setting == "published":
        config.method.backbone, config.method.levels = "pdn_small", ()
        config.train.steps = (70_000,)
    return config
