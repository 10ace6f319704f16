"""Make the small files of real torch that the tests of `torch_file` read.

Run with torch installed: `python -m ports.golden_torch_files tests/golden/torch_files`. The values
are simple progressions, so the tests state them without torch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


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
    torch.serialization.set_crc32_options(False)
    save(state, "zip_no_crc.pth")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
