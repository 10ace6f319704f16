"""Make `tests/golden/backbones.npz`: feature maps as the original frameworks compute them.

    python -m ports.golden tests/golden/backbones.npz

Needs torch (the extra `parity`), torchvision, timm, `efficientnet-pytorch` and
`efficientnet-lite-pytorch`, and Keras for `ports/golden_keras.py`. Every network is filled from a
seed (`ports/seeded.py`) under its own array names, run in float64 on a seeded image that its own
framework's mean and standard deviation prepare, and a sample of each level is stored with the names
and shapes of its arrays. `ports/parity.py` then compares, without any of these.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import lzma
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ports import golden_keras
from ports.golden_case import GAINS, SIZES, Case, Features
from ports.seeded import fill, image, sample

# Named here once more, for nothing of this program imports jax.
RESNETS = ("resnet18", "resnet34", "resnet50", "wide_resnet50_2")
VGGS = ("vgg16", "vgg19", "vgg16_bn", "vgg19_bn")
EFFICIENTNETS = tuple(f"efficientnet_b{i}" for i in range(8))
LITES = tuple(f"efficientnet_lite{i}" for i in range(5))
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
LITE = {"mean": (0.498, 0.498, 0.498), "std": (0.502, 0.502, 0.502)}
"""Google's 127 / 255 and 128 / 255."""

_HEADS = ("fc", "classifier", "head", "pre_logits", "_fc")
_HEAD_ARRAYS = re.compile(rf"^({'|'.join(_HEADS)})\.")


def family_of(architecture: str) -> str:
    """The family whose image size and gain an architecture takes."""
    return re.split(r"[0-9_]", architecture.removeprefix("wide_"))[0]


def normalised(family: str, mean: Any, std: Any) -> Any:
    """The family's image as `(1, 3, H, W)` float64, divided by 255 and normalised."""
    import torch

    x = (image(*SIZES[family]) / 255.0 - np.asarray(mean)) / np.asarray(std)
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def resnet_features(model: Any, x: Any) -> Iterator[tuple[str, Any]]:
    """Outputs of the four stages of a ResNet of torchvision or timm."""
    x = model.maxpool(model.bn1(model.conv1(x)).relu())
    for i in range(1, 5):
        x = getattr(model, f"layer{i}")(x)
        yield f"layer{i}", x


def vgg_features(model: Any, x: Any) -> Iterator[tuple[str, Any]]:
    """Inputs of the five max-pools of a VGG of torchvision or timm."""
    import torch

    block = 1
    for layer in model.features:
        if isinstance(layer, torch.nn.MaxPool2d):
            yield f"block{block}", x.clone()  # the next ReLUs work in place
            block += 1
        x = layer(x)


def torchvision_efficientnet(model: Any, x: Any) -> Iterator[tuple[str, Any]]:
    """Outputs of the seven stages of torchvision's EfficientNet, and of the convolution behind."""
    for i in range(9):  # 0 is the stem
        x = model.features[i](x)
        if i:
            yield "head" if i == 8 else f"stage{i}", x


def timm_efficientnet(model: Any, x: Any) -> Iterator[tuple[str, Any]]:
    """Outputs of the seven stages of timm's EfficientNets, and of the convolution behind."""
    x = model.bn1(model.conv_stem(x))  # activation included
    for i, stage in enumerate(model.blocks):
        x = stage(x)
        yield f"stage{i + 1}", x
    yield "head", model.bn2(model.conv_head(x))  # activation included


def pytorch_efficientnet(model: Any, x: Any) -> Iterator[tuple[str, Any]]:
    """Outputs of the seven stages, and of the convolution behind.

    A stage begins at the block that changes the number of channels.
    """
    x = model._swish(model._bn0(model._conv_stem(x)))
    stage = 0
    for block in model._blocks:
        arguments = block._block_args
        if arguments.input_filters != arguments.output_filters:
            if stage:
                yield f"stage{stage}", x
            stage += 1
        x = block(x)
    yield f"stage{stage}", x
    yield "head", model._swish(model._bn1(model._conv_head(x)))


def torch_case(
    naming: str,
    architecture: str,
    make: Callable[[], Any],
    run: Callable[[Any, Any], Iterator[tuple[str, Any]]],
    *,
    mean: Any,
    std: Any,
) -> Case:
    """Fill a torch model from the seed and run it in float64; the classifier is left out."""
    import torch

    family = family_of(architecture)
    with torch.device("meta"):
        model = make()
    for head in _HEADS:
        if hasattr(model, head):
            setattr(model, head, torch.nn.Identity())
    shapes = {
        name: tuple(array.shape)
        for name, array in model.state_dict().items()
        if not _HEAD_ARRAYS.match(name)
    }
    filled = fill(shapes, gain=GAINS[family])
    state = {name: torch.from_numpy(np.array(array)) for name, array in filled.items()}
    loaded = model.to_empty(device="cpu").double().load_state_dict(state, strict=False)
    if loaded.unexpected_keys or not all(map(_HEAD_ARRAYS.match, loaded.missing_keys)):
        raise RuntimeError(f"{naming} {architecture}: not filled as a whole: {loaded}")
    model.eval()

    def features() -> Features:
        for level, tensor in run(model, normalised(family, mean, std)):
            yield level, tensor.permute(0, 2, 3, 1).numpy()

    return naming, architecture, family, shapes, features()


def cases() -> Iterator[Case]:
    """Every network of the PyTorch namings."""
    by_family = {"resnet": resnet_features, "vgg": vgg_features}
    models = torchvision_models()
    for name in (*RESNETS, *VGGS, *EFFICIENTNETS):
        transforms = models.get_model_weights(name).IMAGENET1K_V1.transforms()
        run = by_family.get(family_of(name), torchvision_efficientnet)
        settings = {"mean": transforms.mean, "std": transforms.std}
        yield torch_case("torchvision", name, getattr(models, name), run, **settings)

    timm = importlib.import_module("timm")
    both = (*EFFICIENTNETS, *LITES)
    for naming, prefix, names in (
        ("timm", "", (*RESNETS, *VGGS, *both)),
        ("timm_tf", "tf_", both),
    ):
        for name in names:
            run = by_family.get(family_of(name), timm_efficientnet)
            make = functools.partial(timm.create_model, prefix + name)
            pixels = timm.models.get_pretrained_cfg(prefix + name)
            yield torch_case(naming, name, make, run, mean=pixels.mean, std=pixels.std)

    for package, names, settings in (
        ("efficientnet_pytorch", EFFICIENTNETS, IMAGENET),
        ("efficientnet_lite_pytorch", LITES, LITE),
    ):
        port = importlib.import_module(package).EfficientNet
        for name in names:
            make = functools.partial(port.from_name, name.replace("_", "-"))
            yield torch_case("efficientnet_pytorch", name, make, pytorch_efficientnet, **settings)


def torchvision_models() -> Any:
    """Import torchvision's models, also where its compiled operators do not load."""
    import torch

    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError:  # built for another torch; the networks need none of its operators
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for loaded in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[loaded]
        return importlib.import_module("torchvision.models")


def write(path: str, cases: Iterable[Case]) -> None:
    """Write a file of samples and print what is in it."""
    import torch

    index: list[dict[str, Any]] = []
    values: list[np.ndarray] = []
    with torch.no_grad():
        for naming, architecture, family, shapes, features in cases:
            levels = {}
            for level, x in features:
                levels[level] = x.shape
                statistics = np.asarray([np.abs(x).max(), x.mean(), x.std()])
                values.append(np.concatenate([statistics, sample(x)]).astype(np.float32))
                print(naming, architecture, level, x.shape, *statistics, flush=True)
            index.append(
                {
                    "naming": naming,
                    "architecture": architecture,
                    "size": SIZES[family],
                    "gain": GAINS[family],
                    "arrays": list(shapes.items()),
                    "levels": list(levels.items()),
                }
            )
    packed = lzma.compress(json.dumps(index, separators=(",", ":")).encode())
    np.savez(path, index=np.frombuffer(packed, np.uint8), values=np.stack(values))
    print(f"{path}: {Path(path).stat().st_size} bytes, {len(packed)} of them the index")


if __name__ == "__main__":
    write(sys.argv[1], itertools.chain(cases(), golden_keras.cases()))
