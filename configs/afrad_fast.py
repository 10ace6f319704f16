"""AFRAD in minutes on a CPU: one model for many classes, on cached features of a small network.

    jaxad train --config configs/afrad_fast.py --workdir runs/afrad --config.data.root=MVTEC_AD

`configs/afrad_fast.py:small` is the budget of docs/afrad.md's comparisons, `:cifar10-01234` (and so
on) one of CIFAR-10's four settings; both rebuild every stage from all, as the paper has it.

EfficientNet-Lite0 instead of B4, narrow tokens, features computed once and kept in half precision.
Half of the stages predict the other half (`hidden`), which finds what a network that sees what it
rebuilds does not. docs/afrad.md has the choices that the paper leaves open, and what those measured
so far are worth.
"""

from ml_collections import ConfigDict

from jaxad.config import default_config
from jaxad.data.layouts.cifar10 import SETTINGS as CIFAR


def get_config(size: str = "fast") -> ConfigDict:
    """Return the fast configuration, a smaller one, or one for CIFAR-10."""
    normal = size.removeprefix("cifar10-")
    if size not in ("fast", "small") and normal not in CIFAR:
        raise ValueError(f"sizes are fast, small and cifar10-{{{','.join(CIFAR)}}}, not {size!r}")
    config = default_config("afrad")
    config.data.one_for_all = True
    config.data.resize = "bilinear"
    m, train = config.method, config.train
    m.backbone = "efficientnet_lite0"
    m.mlp_ratio, m.decodings = 1, (1, 1, 1, 1)
    m.jitter, m.sum_of_scales = 0.0, True  # each better than UniAD's (docs/afrad.md)
    m.pooling = 32
    m.clip, m.one_cycle = 1.0, True
    train.batch_size, train.cache_dtype, train.sampling = 16, "float16", "balanced"
    config.score.batch_size = 16
    if size == "fast":
        m.levels = ("stage3", "stage5", "stage6", "stage7")  # of strides 8, 16, 32 and 32
        m.patch_kernel = m.patch_stride = (4, 1, 1, 1)  # tokens: 8 x 8, but 16 x 16 of stage5
        m.grid = 2  # stride 16
        m.width, m.decoder_width = (64, 64, 192, 192), 96
        m.hidden = ((1, 3), (2, 4))  # half of the stages predict the other half
        m.normalise, m.map_length, m.image_stages = 1.0, 0.75, (1, 2, 3, 4)
        m.learning_rate = 3e-3
        train.steps = (2000,)
        return config
    m.levels = ("stage2", "stage3", "stage5", "stage6")  # of strides 4, 8, 16 and 32
    m.patch_kernel = m.patch_stride = (4, 2, 1, 1)  # tokens: 16 x 16, and 8 x 8 of the last
    m.grid = 3  # stride 16
    m.width, m.decoder_width = (24, 32, 48, 64), 48
    m.normalise = 0.75
    m.learning_rate = 1e-3
    train.steps = (160,)
    if normal in CIFAR:
        # Chosen by classes of the training photos that were left out in turn (docs/afrad.md).
        config.data.layout, config.data.categories = "cifar10", normal
        config.data.resize, config.data.image_size = "lanczos", (224, 224)
        m.backbone, m.mirror = "efficientnet_lite2", True
        m.levels, m.whole = ("stage7", "head"), True  # what is odd here is the whole image
        m.root, m.neighbours = True, 5
        m.patch_kernel = m.patch_stride = m.refinements = m.decodings = (1, 1)
        m.grid, m.local_kernels = 2, (1,)
        m.local, m.compensation, m.adaptive = (1, 2), (1, 2), (1, 2)
        m.width, m.decoder_width = (64, 128), 96
        m.normalise, m.jitter = 1.0, 1.0  # with one token there is no neighbour to copy from
        m.image_stages, m.relative, m.pooling = (2,), 0.75, 0
        m.learning_rate = 2e-3
        train.steps, train.batch_size = (400,), 64
    return config
