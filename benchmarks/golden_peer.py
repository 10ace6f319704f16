"""Store what the PyTorch peers compute, so that tests without PyTorch compare it with ours.

    python -m benchmarks.golden_peer tests/golden/peer.npz

Needs PyTorch beside jaxad (`pip install -e .[peer]`), no weights and no data: networks and methods
are small, with weights drawn from a seed, and so are the images. Of every score map each third
row and column is kept, of training four steps' losses and one network's running variance; beside
them the statistics of BatchNorm that the method was given.
`tests/benchmarks/test_golden_peer.py` computes the same without PyTorch; where PyTorch is there,
`test_torch_nets.py` compares with the peers themselves. Make the file anew after changing a case.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from benchmarks.detectors import build, configure, trained_like
from jaxad.core import Variables
from jaxad.detector import Detector
from jaxad.files import write_bytes
from jaxad.training.state import init_state
from jaxad.training.steps import make_train_step

Arrays = dict[str, np.ndarray[Any, Any]]
SIZE = (64, 96)
SMALL = {"source": "resnet18", "target": "resnet18", "latent": (20, 30, 40)}
SUBJECTS: dict[str, dict[str, Any]] = {
    "mb_pfm": SMALL,
    "mb_pfm_fast": {**SMALL, "conv_block_everywhere": True},
    "pfm": {**SMALL, "normalise_output": True},
    "simplenet": {"backbone": "resnet18", "embedding": 96, "hidden": 64},
    "simplenet_rewritten": {"backbone": "resnet18", "embedding": 96, "hidden": 64},
    "afrad": {
        "backbone": "efficientnet_lite0",
        "levels": ("stage1", "stage2", "stage3", "stage5"),
        "width": (8, 12, 16, 20),
        "decoder_width": 24,
    },
    "afrad_fast": {
        "levels": ("stage2", "stage3", "stage5", "stage6"),
        "patch_kernel": (4, 2, 1, 1),
        "patch_stride": (4, 2, 1, 1),
        "width": (8, 12, 16, 20),
        "hidden": ((1, 4), (3, 2)),
        "normalise": 1.0,
        "map_length": 0.5,
        "image_stages": (3, 4),
    },
}
"""By name (of `benchmarks.detectors`, or `simplenet_rewritten`): what makes it small, or other than
its configuration has it, so that more of the code is compared."""
STEPS = 4
"""Of training."""


def images(size: tuple[int, int] = SIZE, count: int = 2) -> np.ndarray[Any, Any]:
    """Draw `(count, H, W, 3)` uint8."""
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def small(name: str, *, size: tuple[int, int] = SIZE) -> Any:
    """The configuration of a subject, made small."""
    config = configure(name.removesuffix("_rewritten"), image_size=size)
    config.method.update(SUBJECTS[name])
    if "zero_output" in config.method:
        config.method.zero_output = False  # maps of a zero output are the features' length: 1
    return config


def scores(map_: Any, image: Any) -> Arrays:
    """What is stored of maps `(B, H, W)` and image scores `(B,)`."""
    return {"map": np.asarray(map_)[:, ::3, ::3], "image": np.asarray(image)}


def our_steps(
    detector: Detector, variables: Variables, *, options: dict[str, Any] | None = None
) -> Arrays:
    """Losses of training steps on whole maps, and one running variance after them.

    `options` are the compiler's.
    """
    optimizer = detector.method.optimizer(100)
    loss = detector.method.loss
    step = jax.jit(
        make_train_step(lambda v, _, f, rng: loss(v, dict(f), {}, rng), optimizer),
        compiler_options=options,
    )
    extract = jax.jit(detector.features, compiler_options=options)
    found = extract(variables, images((64, 64)))
    state, losses = init_state(variables["method"], optimizer), []
    for _ in range(STEPS):
        state, metrics = step(state, {}, found, jax.random.key(0))
        losses.append(float(metrics["loss"][0]))
    level = next(iter(detector.backbones["source"].levels))
    moved = state.variables["batch_stats"][level]["forward_layer1"]["bn"]["var"]
    return {"loss": np.asarray(losses), "var": np.asarray(moved)}


def peer_steps(
    config: Any, detector: Detector, variables: Variables, *, channels_last: bool
) -> Any:
    """The same by the PyTorch peer."""
    from benchmarks.torch_training import Trainer

    trainer = Trainer(config, detector, variables, channels_last=channels_last)
    features = trainer.features(images((64, 64)))
    losses = [trainer.step(features) for _ in range(STEPS)]
    moved = trainer.model.mappings[trainer.model.pairs[0][0]].blocks["forward_layer1"][1]
    return {"loss": np.asarray(losses), "var": moved.running_var.numpy().copy()}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help=".npz to write")
    args = parser.parse_args(argv)
    from benchmarks.torch_peer import peer

    arrays: Arrays = {}
    for name in SUBJECTS:
        config = small(name)
        detector, variables = build(config)
        variables = trained_like(detector, variables, seed=0)
        found = scores(*peer(name, config, detector, variables)(images()))
        statistics = flatten_dict(variables["method"].get("batch_stats", {}), sep="/")
        found |= {f"batch_stats/{path}": np.asarray(leaf) for path, leaf in statistics.items()}
        arrays |= {f"{name}/{key}": value for key, value in found.items()}
        print(name, f"largest score {found['map'].max():.3g}")
    config = small("mb_pfm", size=(64, 64))
    found = peer_steps(config, *build(config), channels_last=False)
    arrays |= {f"training/{key}": value for key, value in found.items()}
    print("training", found["loss"])
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)  # type: ignore[arg-type]
    write_bytes(args.file, data.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(main())
