"""The PyTorch peer of a detector, in every way that its users make it fast."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks.torch_afrad import AFRAD
from benchmarks.torch_methods import PFM, SimpleNet, smooth
from jaxad.core import InputError, Variables
from jaxad.detector import Detector

Score = Callable[[Any], tuple[Any, Any]]
"""Maps `(B, H, W, 3)` uint8 to maps and image scores."""


class Variant(NamedTuple):
    """A way of running the peer."""

    channels_last: bool = False
    dtype: str = "float32"
    """"float32", "bfloat16" (weights and features) or "autocast" (PyTorch's choice of each)."""
    compiler: str = ""
    """"" (eager), "jit" (trace, freeze, optimize_for_inference) or a mode of torch.compile."""


VARIANTS: dict[str, Variant] = {
    "eager": Variant(),
    "channels_last": Variant(channels_last=True),
    "jit": Variant(compiler="jit"),
    "jit channels_last": Variant(channels_last=True, compiler="jit"),
    "compile": Variant(compiler="default"),
    "compile channels_last": Variant(channels_last=True, compiler="default"),
    "autocast channels_last": Variant(channels_last=True, dtype="autocast"),
    "bfloat16 channels_last": Variant(channels_last=True, dtype="bfloat16"),
    "bfloat16 compile": Variant(channels_last=True, dtype="bfloat16", compiler="default"),
}
CUDA_VARIANTS: dict[str, Variant] = {
    "compile max-autotune": Variant(channels_last=True, compiler="max-autotune-no-cudagraphs"),
    "compile reduce-overhead": Variant(channels_last=True, compiler="reduce-overhead"),
    "bfloat16 max-autotune": Variant(True, "bfloat16", "max-autotune-no-cudagraphs"),
    "bfloat16 reduce-overhead": Variant(True, "bfloat16", "reduce-overhead"),
}
"""Beside the others; reduce-overhead means CUDA graphs."""


def variants() -> dict[str, Variant]:
    """The variants that this device has."""
    return {**VARIANTS, **CUDA_VARIANTS} if torch.cuda.is_available() else VARIANTS


def device() -> str:
    """Where the peer runs."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def allow_tf32(allow: bool) -> None:
    """Let float32 products on a GPU be TF32, which is jax's default, or not."""
    torch.backends.cuda.matmul.allow_tf32 = allow
    torch.backends.cudnn.allow_tf32 = allow


def torch_detector(name: str, config: Any, detector: Detector, variables: Variables) -> nn.Module:
    """Make the peer of a subject of `benchmarks.detectors`; `simplenet_rewritten` is one more.

    Raises:
        InputError: Its method has none.
    """
    method = config.method.name
    model: nn.Module
    if method == "pfm":
        model = PFM(config, detector, variables)
    elif method == "simplenet":
        rewritten = name.endswith("_rewritten")
        model = SimpleNet(config, detector, variables, rewritten=rewritten)
    elif method == "afrad":
        model = AFRAD(config, detector, variables)
    else:
        raise InputError(f"{name} has no PyTorch peer: pfm, simplenet and afrad have")
    return model.eval().requires_grad_(False)


def make_score(
    model: nn.Module, variant: Variant, example: np.ndarray[Any, Any], *, resident: bool = False
) -> Score:
    """Make a function that scores batches of the shape of `example`, compiled and run once.

    Args:
        model: The peer, left as it is.
        variant: How to run it.
        example: `(B, H, W, 3)` uint8.
        resident: Take images on the device and leave scores there (waiting for them), instead of
            NumPy to NumPy. SimpleNet's smoothing is on the host either way.
    """
    where, sigma = device(), model.sigma
    model = copy.deepcopy(model).to(where)
    model.channels_last = variant.channels_last
    if variant.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if variant.dtype == "bfloat16":
        model = model.to(torch.bfloat16)
    torch.backends.cudnn.benchmark = True
    images = torch.from_numpy(example).to(where)
    call: Callable[[Any], Any] = model
    with _running(variant):
        if variant.compiler == "jit":
            call = _frozen(model, images)
        elif variant.compiler:
            call = torch.compile(model, mode=variant.compiler, dynamic=False, fullgraph=True)

    def score(images: Any) -> tuple[Any, Any]:
        with _running(variant):
            x = images if resident else torch.from_numpy(images).to(where)
            maps, image = call(x)
            if resident and not sigma:
                if where == "cuda":
                    torch.cuda.synchronize()
                return maps, image
            return smooth(maps.float().cpu().numpy(), sigma), image.float().cpu().numpy()

    for _ in range(3):  # jit specialises at the second run, CUDA graphs are taken at the second
        score(images if resident else example)
    return score


def _frozen(model: nn.Module, images: Any) -> Callable[[Any], Any]:
    """Trace, freeze and optimise a model for one shape."""

    def freeze() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # sizes are meant to be fixed
            return torch.jit.freeze(torch.jit.trace(model, images, check_trace=False))

    optimised: Callable[[Any], Any] = torch.jit.optimize_for_inference(freeze())
    try:
        optimised(images)
    except RuntimeError:  # it chooses oneDNN's GELU, which has no tanh form (AFRAD)
        frozen: Callable[[Any], Any] = freeze()
        return frozen
    return optimised


@contextlib.contextmanager
def _running(variant: Variant) -> Iterator[None]:
    """Without gradients, in the variant's precision; freezing lets inductor pack the weights."""
    with contextlib.ExitStack() as stack:
        # Freezing wants no_grad: tensors of inference mode can not be packed ahead.
        quiet = torch.no_grad if variant.compiler else torch.inference_mode
        stack.enter_context(quiet())
        if variant.dtype == "autocast":
            stack.enter_context(torch.autocast(device(), dtype=torch.bfloat16))
        if variant.compiler not in ("", "jit"):
            import torch._inductor.config as inductor

            stack.enter_context(inductor.patch(freezing=True))
        yield


def peer(name: str, config: Any, detector: Detector, variables: Variables) -> Score:
    """The peer, eager, NumPy to NumPy."""
    model = torch_detector(name, config, detector, variables)
    example = np.zeros((1, *config.data.image_size, 3), np.uint8)
    return make_score(model, Variant(), example)
