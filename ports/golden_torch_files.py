"""Make the small files of real torch that the tests of `torch_file` read.

Run with torch installed: `python -m ports.golden_torch_files tests/golden/torch_files`. The values
are simple progressions, so the tests state them without torch.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np


def main(folder: Path) -> None:
    """Write the files, made with torch 2.13, into `folder`."""
    import torch

    dtypes = (
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
    values = torch.tensor([-2.5, 0.0, 1.0, 3.0])
    numbers: dict[str, Any] = {}
    for dtype in dtypes:
        unsigned = values.abs() if dtype == torch.uint8 else values
        numbers[str(dtype).removeprefix("torch.")] = unsigned.to(dtype)

    base = torch.arange(24, dtype=torch.float32)
    views: dict[str, Any] = {
        "whole": base.view(2, 3, 4),
        "transposed": base.view(4, 6).t(),
        "permuted_half": base.view(2, 3, 4).permute(2, 0, 1).to(torch.float16),
        "permuted_bfloat16": base.to(torch.bfloat16).view(2, 3, 4).permute(2, 0, 1),
        "row": base.view(4, 6)[2],
        "steps": base[1::5],
        "expanded": base[3:4].expand(2, 3),
        "scalar": base[7],
        "counter": torch.tensor(5),
        "empty": torch.zeros(0, 3),
        "tied": base.view(2, 3, 4),
        "parameter": torch.nn.Parameter(base[:2].clone()),
        "channels_last": torch.arange(12.0)
        .view(1, 3, 2, 2)
        .contiguous(memory_format=torch.channels_last),
    }
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    for parameter in module.parameters():
        parameter.data = torch.arange(float(parameter.numel())).view(parameter.shape)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module(torch.ones(1, 1, 2, 2)).sum().backward()
    optimizer.step()
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape))
    state = module.state_dict()
    checkpoint = {"epoch": 3, "state_dict": state, "optimizer": optimizer.state_dict(), "best": 0.5}

    def save(value: Any, name: str, **options: Any) -> None:
        torch.save(value, folder / name, **options)

    for zipped in (True, False):
        kind = "zip" if zipped else "stream"
        save(numbers, f"{kind}_dtypes.pth", _use_new_zipfile_serialization=zipped)
        save(views, f"{kind}_views.pth", _use_new_zipfile_serialization=zipped)
        save(state, f"{kind}_module.pth", _use_new_zipfile_serialization=zipped)
    save(checkpoint, "zip_checkpoint.pth")
    save(state, "zip_protocol4.pth", pickle_protocol=4)
    _save_training(module, optimizer, save)
    _save_refused(save)
    torch.serialization.set_crc32_options(False)
    save(state, "zip_no_crc.pth")


def _save_training(module: Any, optimizer: Any, save: Callable[..., None]) -> None:
    """Save checkpoints as timm, torchvision and PyTorch's example of ImageNet write them.

    The weights to be found are those of `module`; the last ones beside an average are 0.
    """
    import torch

    state = module.state_dict()
    last = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    settings = argparse.Namespace(
        model="net",
        output=PurePosixPath("runs"),
        betas=(0.9, 0.99),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    timm = {
        "epoch": 3,
        "arch": "net",
        "optimizer": optimizer.state_dict(),
        "version": 2,
        "args": settings,
        "state_dict": last,
        "state_dict_ema": state,
        "metric": np.float64(71.2),
    }
    torchvision = {
        "model": last,
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "epoch": 3,
        "args": settings,
        "model_ema": torch.optim.swa_utils.AveragedModel(module).state_dict(),
    }
    example = {
        "epoch": 3,
        "state_dict": torch.compile(torch.nn.DataParallel(module)).state_dict(),
        "best_acc1": torch.tensor(71.2),
    }
    extras = {
        "net": state,
        "generator": np.random.default_rng(0).bit_generator.state,
        "history": np.arange(5.0),
        "seen": {1, 2},
        "fixed": frozenset([1]),
        "bytes": b"abc",
        "long": "x" * 5000,
        "log": {0.5: "half", (1, 2): "pair", None: "none"},
        "figures": defaultdict(list, {"loss": [0.5]}),
        "queue": deque([1, 2], maxlen=3),
        "shape": torch.Size([1, 2]),
    }
    save(timm, "zip_timm.pth")
    save(torchvision, "stream_torchvision.pth", _use_new_zipfile_serialization=False)
    save(example, "zip_example.pth")
    for protocol in (2, 5):
        name = f"stream_extras{protocol}.pth"
        save(extras, name, pickle_protocol=protocol, _use_new_zipfile_serialization=False)


def _save_refused(save: Callable[..., None]) -> None:
    """Save one tensor of each kind that is refused, as `refused_KIND.pth`."""
    import torch

    four = torch.arange(4.0)
    kinds: dict[str, Any] = {
        "float8": four.to(torch.float8_e4m3fn),
        "sparse": four.to_sparse(),
        "quantised": torch.quantize_per_tensor(four, 0.1, 0, torch.qint8),
        "complex": four.to(torch.complex64),
        "meta": four.to("meta"),
        "negated": torch._neg_view(four),
        "buffer": torch.nn.Buffer(four),
        "storage": four.untyped_storage(),
        "module": torch.nn.ReLU(),
        "array": four.numpy(),
    }
    for name, value in kinds.items():
        # The stream container would store the source of the module as well.
        zipped = name == "module"
        save({"w": value}, f"refused_{name}.pth", _use_new_zipfile_serialization=zipped)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
