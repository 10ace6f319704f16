"""Make `tests/golden/vit.npz`: maps of vision transformers as PyTorch computes them.

    python -m ports.golden_vit tests/golden/vit.npz

Needs torch (the extra `parity`) and timm, whose blocks are the reference of both namings; as in
`ports/golden.py`, weights are seeded and the arithmetic is float64. timm reads the arrays of
DINOv2's hub by its own converter. The hub resizes the positions of DINOv2 without registers in its
own way, which is done here with torch for timm's names too: the weights are the same.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any

from ports.golden import IMAGENET, normalised, torchvision_models, write
from ports.golden_case import GAINS, Case, Features, Shapes
from ports.seeded import fill

TIMM = {
    "dinov2_vits14": "vit_small_patch14_dinov2",
    "dinov2_vits14_reg": "vit_small_patch14_reg4_dinov2",
    "dinov2_vitb14": "vit_base_patch14_dinov2",
    "dinov2_vitb14_reg": "vit_base_patch14_reg4_dinov2",
    "deit_small_patch16": "deit_small_patch16_224",
}
TRAINED = 37
"""Patches along each side of DINOv2's images."""


def hub_shapes(shapes: Shapes) -> Shapes:
    """Names and shapes of DINOv2's hub, from timm's."""
    hub = dict(shapes)
    channels = hub["cls_token"][-1]
    if "reg_token" in hub:
        hub["register_tokens"] = hub.pop("reg_token")
    return hub | {"pos_embed": (1, 1 + TRAINED**2, channels), "mask_token": (1, channels)}


def hub_tokens(model: Any, x: Any) -> Any:
    """Tokens with their positions, as DINOv2's hub makes them without registers."""
    import torch

    patches = model.patch_embed(x)
    _, height, width, channels = patches.shape
    table = model.pos_embed[:, 1:].reshape(1, TRAINED, TRAINED, channels).permute(0, 3, 1, 2)
    scale = ((height + 0.1) / TRAINED, (width + 0.1) / TRAINED)
    table = torch.nn.functional.interpolate(table, scale_factor=scale, mode="bicubic")
    patches = (patches + table.permute(0, 2, 3, 1)).flatten(1, 2)
    return torch.cat([model.cls_token + model.pos_embed[:, :1], patches], dim=1)


def vit_features(model: Any, x: Any, *, offset: bool) -> Iterator[tuple[str, Any]]:
    """Outputs of all blocks as maps `(1, h, w, C)`, and the last one's normalised."""
    grid = model.patch_embed(x).shape[1:3]
    x = hub_tokens(model, x) if offset else model._pos_embed(model.patch_embed(x))

    def patches(x: Any) -> Any:
        return x[:, model.num_prefix_tokens :].unflatten(1, grid).numpy()

    for i, block in enumerate(model.blocks):
        x = block(x)
        yield f"block{i + 1}", patches(x)
    yield "norm", patches(model.norm(x))


def case(naming: str, architecture: str) -> Case:
    """Fill timm's model from the seed by the names of one naming, and run it in float64."""
    import torch

    timm = importlib.import_module("timm")
    settings = {"num_classes": 0, "dynamic_img_size": True}
    with torch.device("meta"):
        model = timm.create_model(TIMM[architecture], **settings)
    shapes = {name: tuple(array.shape) for name, array in model.state_dict().items()}
    family = architecture.split("_")[0]
    if naming == "dinov2_hub":
        shapes = hub_shapes(shapes)
    filled = fill(shapes, gain=GAINS[family])
    state = {name: torch.from_numpy(array.copy()).double() for name, array in filled.items()}
    if naming == "dinov2_hub":
        state = timm.models.vision_transformer._convert_dinov2(state, model)
    model = model.to_empty(device="cpu").double()
    model.load_state_dict(state)
    model.eval()
    offset = family == "dinov2" and not architecture.endswith("_reg")
    features: Features = vit_features(model, normalised(family, **IMAGENET), offset=offset)
    return naming, architecture, family, shapes, features


def cases() -> Iterator[Case]:
    """Every vision transformer, by timm's names and, of DINOv2, by those of its hub."""
    torchvision_models()  # which timm imports
    for architecture in TIMM:
        yield case("timm", architecture)
        if architecture.startswith("dinov2"):
            yield case("dinov2_hub", architecture)


if __name__ == "__main__":
    write(sys.argv[1], cases())
