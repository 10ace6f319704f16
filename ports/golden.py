"""Make `tests/golden/backbones.npz`: feature maps as the original frameworks compute them.

    python -m ports.golden tests/golden/backbones.npz

Needs torch (the extra `parity`), torchvision and `efficientnet-lite-pytorch`. Every network is
filled from a seed (`ports/seeded.py`) under its own array names, run in float64 on a seeded image,
and a sample of each level is stored with the names and shapes of its arrays.
`tests/ports/test_parity.py` then shows, without torch, that our converters and modules compute the
same. Keras is not run: its ResNet-50 is restated below in torch functions, layer by layer under
Keras' names.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ports.seeded import fill, image, sample

# Height, width: not square, and odd after some of the halvings, where paddings differ most.
SIZES = {"resnet": (72, 96), "vgg": (64, 80), "efficientnet": (72, 96)}
GAINS = {"resnet": 1.0, "vgg": 1.0, "efficientnet": 1.2}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Shapes = dict[str, tuple[int, ...]]
Features = Iterator[tuple[str, Any]]
"""(level, `(1, C, h, w)` tensor), in order of depth."""


def normalised(pixels: np.ndarray, mean: Any, std: Any) -> Any:
    """Images as `(1, 3, H, W)` float64, divided by 255 and normalised."""
    import torch

    x = (pixels / 255.0 - np.asarray(mean)) / np.asarray(std)
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def resnet_features(model: Any, x: Any) -> Features:
    """Outputs of the four stages of a torchvision ResNet."""
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    for i in range(1, 5):
        x = getattr(model, f"layer{i}")(x)
        yield f"layer{i}", x


def vgg_features(model: Any, x: Any) -> Features:
    """Inputs of the five max-pools of a torchvision VGG."""
    import torch

    block = 1
    for layer in model.features:
        if isinstance(layer, torch.nn.MaxPool2d):
            yield f"block{block}", x.clone()  # the next ReLUs work in place
            block += 1
        x = layer(x)


def efficientnet_features(model: Any, x: Any) -> Features:
    """Outputs of the seven stages; each begins at the block that changes the number of channels."""
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


KERAS_STAGES = ((2, 3, 64), (3, 4, 128), (4, 6, 256), (5, 3, 512))
"""Number in the layer name, blocks, channels of the 3x3."""


def keras_shapes() -> Shapes:
    """Array names and shapes of Keras' ResNet-50, kernels OIHW."""
    shapes: Shapes = {}

    def layer(name: str, outputs: int, inputs: int, size: int) -> None:
        shapes[f"{name}_conv.weight"] = (outputs, inputs, size, size)
        shapes[f"{name}_conv.bias"] = (outputs,)
        for leaf in ("gamma", "beta", "moving_mean", "moving_variance"):
            shapes[f"{name}_bn.{leaf}"] = (outputs,)

    layer("conv1", 64, 3, 7)
    inputs = 64
    for stage, blocks, channels in KERAS_STAGES:
        for block in range(1, blocks + 1):
            name = f"conv{stage}_block{block}"
            if block == 1:
                layer(f"{name}_0", 4 * channels, inputs, 1)
            layer(f"{name}_1", channels, inputs, 1)
            layer(f"{name}_2", channels, channels, 3)
            layer(f"{name}_3", 4 * channels, channels, 1)
            inputs = 4 * channels
    return shapes


def keras_features(state: Mapping[str, Any], x: Any) -> Features:
    """Keras' ResNet-50 (applications/resnet.py, `stack1` and `block1`) in torch functions."""
    import torch.nn.functional as F

    def layer(name: str, x: Any, stride: int = 1, padding: int = 0) -> Any:
        x = F.conv2d(x, state[f"{name}_conv.weight"], state[f"{name}_conv.bias"], stride, padding)
        leaves = ("moving_mean", "moving_variance", "gamma", "beta")
        mean, variance, gamma, beta = (state[f"{name}_bn.{leaf}"] for leaf in leaves)
        return F.batch_norm(x, mean, variance, gamma, beta, eps=1.001e-5)

    x = F.relu(layer("conv1", x, stride=2, padding=3))
    x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)
    for stage, blocks, _ in KERAS_STAGES:
        for block in range(1, blocks + 1):
            name = f"conv{stage}_block{block}"
            stride = 2 if block == 1 and stage > 2 else 1
            shortcut = layer(f"{name}_0", x, stride) if block == 1 else x
            y = F.relu(layer(f"{name}_1", x, stride))
            y = F.relu(layer(f"{name}_2", y, padding=1))
            x = F.relu(layer(f"{name}_3", y) + shortcut)
        yield f"layer{stage - 1}", x


def torch_case(
    model: Any, run: Callable[[Any, Any], Features], x: Any, *, gain: float
) -> tuple[Shapes, Features]:
    """Fill a torch model from the seed and run it in float64; the classifier is left alone."""
    import torch

    shapes = {
        name: tuple(array.shape)
        for name, array in model.state_dict().items()
        if not name.startswith(("fc.", "classifier.", "_fc.", "_conv_head.", "_bn1."))
    }
    state = {name: torch.from_numpy(np.asarray(a)) for name, a in fill(shapes, gain=gain).items()}
    model.load_state_dict(state, strict=False)
    return shapes, run(model.double().eval(), x)


def cases() -> Iterator[tuple[str, str, Shapes, Features]]:
    """(architecture, family, array shapes, features) of every network."""
    import torch

    models = _torchvision_models()
    for name in ("resnet18", "resnet34", "resnet50", "vgg16", "vgg19", "vgg16_bn", "vgg19_bn"):
        family = "vgg" if name.startswith("vgg") else "resnet"
        x = normalised(image(*SIZES[family]), MEAN, STD)
        run = vgg_features if family == "vgg" else resnet_features
        case = torch_case(getattr(models, name)(), run, x, gain=GAINS[family])
        yield name, family, *case

    pixels = image(*SIZES["resnet"])[..., ::-1] - np.asarray((103.939, 116.779, 123.68))
    x = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    shapes = keras_shapes()
    state = {name: torch.from_numpy(a).double() for name, a in fill(shapes).items()}
    yield "resnet50_keras", "resnet", shapes, keras_features(state, x)

    lite = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    x = normalised(image(*SIZES["efficientnet"]), (0.498,) * 3, (0.502,) * 3)
    for i in range(5):
        model = lite.from_name(f"efficientnet-lite{i}")
        case = torch_case(model, efficientnet_features, x, gain=GAINS["efficientnet"])
        yield f"efficientnet_lite{i}", "efficientnet", *case


def _torchvision_models() -> Any:
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


def main(path: str) -> None:
    """Write the file and print what is in it."""
    import torch

    index: dict[str, Any] = {}
    values: list[np.ndarray] = []
    with torch.no_grad():
        for name, family, shapes, features in cases():
            levels = {}
            for level, tensor in features:
                x = tensor.permute(0, 2, 3, 1).numpy()
                levels[level] = {
                    "shape": x.shape,
                    "max": float(np.abs(x).max()),
                    "mean": float(x.mean()),
                    "std": float(x.std()),
                }
                values.append(sample(x).astype(np.float32))
                print(name, level, levels[level])
            index[name] = {
                "size": SIZES[family],
                "gain": GAINS[family],
                "arrays": list(shapes.items()),
                "levels": levels,
            }
    np.savez_compressed(path, index=json.dumps(index), values=np.stack(values))
    print(f"{path}: {Path(path).stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
