"""The 12 cases of Table VII (Wan et al., 2022): `configs/pfm_ablation.py:N`, N from 1 to 12.

    jaxad train --config configs/pfm_ablation.py:8 --workdir runs/pfm_8 --config.data.root=MVTEC_AD

Published means over MVTec AD, image AUROC / pixel AUROC / AUPRO@0.3 in percent:

     N  networks          levels   both ways   result
     1  ResNet-18, 34     3        no          93.5 / 95.1 / 84.7
     2  ResNet-18, 34     3        yes         95.1 / 95.9 / 86.8
     3  ResNet-18, 34     2        yes         93.6 / 94.8 / 90.0
     4  ResNet-18, 34     1        yes         82.8 / 90.8 / 82.3
     5  ResNet-18, 34     2, 3     yes         97.2 / 96.8 / 91.6
     6  ResNet-18, 34     1, 2     yes         93.1 / 95.1 / 90.7
     7  ResNet-18, 34     1, 3     yes         96.7 / 97.0 / 91.1
     8  ResNet-18, 34     1, 2, 3  yes         97.4 / 97.0 / 92.5
     9  8, random weights 1, 2, 3  yes         58.1 / 50.8 / 18.0
    10  ResNet-18, 50     1, 2, 3  yes         97.0 / 97.2 / 93.0
    11  ResNet-34, 50     1, 2, 3  yes         97.5 / 97.3 / 93.0
    12  VGG-16, 19        1, 2, 3  yes         94.2 / 94.7 / 86.9

The printed tick marks of rows 5 to 7 are damaged; their levels follow from the text. The latent
sizes are Table II's, but for ResNet-34 to 50 (row 11), where the authors' code and the paper's own
22.9 G agree on 900 at level 3. The VGG are those with BatchNorm, as in the code.
"""

from ml_collections import ConfigDict

from jaxad.config import default_config

ONE_WAY = {1}
LEVELS = {1: (3,), 2: (3,), 3: (2,), 4: (1,), 5: (2, 3), 6: (1, 2), 7: (1, 3)}
PAIRS = {10: ("resnet18", "resnet50"), 11: ("resnet34", "resnet50"), 12: ("vgg16_bn", "vgg19_bn")}
LATENT = {10: (200, 400, 900), 11: (200, 400, 900), 12: (200, 400, 400)}


def get_config(case: str = "8") -> ConfigDict:
    """Return case `case` of Table VII."""
    if case not in [str(n) for n in range(1, 13)]:
        raise ValueError(f"Table VII has cases 1 to 12, not {case!r}")
    number = int(case)
    config = default_config("pfm")
    config.data.resize = "lanczos"  # the authors' code
    config.data.calibration = 0.0  # as published: all normal photos are trained on
    config.method.source, config.method.target = PAIRS.get(number, ("resnet18", "resnet34"))
    config.method.latent = LATENT.get(number, (50, 100, 200))
    config.method.levels = LEVELS.get(number, (1, 2, 3))
    config.method.bidirectional = number not in ONE_WAY
    config.method.random_weights = number == 9
    return config
