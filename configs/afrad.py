"""AFRAD, one model for all categories, as published: `configs/afrad.py:SETTING`.

    jaxad train --config configs/afrad.py:mvtec --workdir runs/afrad --config.data.root=MVTEC_AD

SETTING is `mvtec` (default), `visa`, or one of CIFAR-10's `cifar10-01234`, `cifar10-56789`,
`cifar10-02468`, `cifar10-13579`. Published means, image AUROC / pixel AUROC / AUPRO@0.3 in percent:
98.3 / 96.9 / 91.3 (MVTec AD), 90.6 / 98.5 / 87.7 (VisA), 87.4 (CIFAR-10, images, of four).

No code was published. EfficientNet-B4, 256 px, AdamW with 1e-4 and the epochs are the paper's; the
batch of 8 (CIFAR-10: 16), the weight decay, the step down at 80 %, the clipping at 0.1, the jitter,
the grid of stride 16 and the pooling are UniAD's, its nearest relative. Widths and patch sizes are
ours: 8.1 M trainable parameters, UniAD has 7.7 M. A full run needs an accelerator; we have not made
one.

Stages keep grids of their own, as the paper upsamples stage 2 to stage 1: tokens of 4, 8, 16 and 16
pixels. All on the grid of stride 16, at two fifths of the work:
`--config.method.patch_stride=8,4,2,1` (CIFAR-10: `8,4,2,1,1`).
"""

from ml_collections import ConfigDict

from jaxad.config import default_config
from jaxad.data.layouts.cifar10 import SETTINGS as CIFAR


def get_config(setting: str = "mvtec") -> ConfigDict:
    """Return one of the paper's settings."""
    known = ("mvtec", "visa", *(f"cifar10-{normal}" for normal in CIFAR))
    if setting not in known:
        raise ValueError(f"settings are {', '.join(known)}, not {setting!r}")
    config = default_config("afrad")
    config.data.one_for_all = True
    config.data.resize = "bilinear"
    config.data.calibration = 0.0  # as published: all normal photos are trained on
    config.train.epochs = 1000
    m = config.method
    m.patch_kernel, m.patch_stride = (8, 4, 2, 1), (2, 2, 2, 1)  # features a token reads; steps by
    m.jitter = 1.2  # UniAD's 20 / √272, in units of the features' root mean square
    if setting == "visa":
        config.data.layout = "visa"
    elif setting != "mvtec":
        config.data.layout = "cifar10"
        config.data.categories = setting.removeprefix("cifar10-")
        config.data.resize = "lanczos"
        config.train.epochs = 200
        config.train.batch_size = 16  # images
        # All five of UniAD's stages, 720 channels; image scores only.
        m.levels = ("stage1", "stage2", "stage3", "stage5", "stage7")
        m.width, m.patch_kernel, m.patch_stride = (
            (64, 96, 128, 256, 256),
            (8, 4, 2, 1, 1),
            (2, 2, 2, 1, 1),
        )
        m.jitter = 20 / 720**0.5  # UniAD's, of 720 channels
        m.refinements, m.decodings, m.adaptive = (1, 1, 1, 1, 1), (1, 1, 2, 2, 2), (1, 2, 3, 4, 5)
        m.pooling = 0
    return config
