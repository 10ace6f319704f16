"""From a configuration to AFRAD: the only reader of its `method.*` keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxad.backbones.mirrored import mirrored
from jaxad.core import Backbone, InputError, Method
from jaxad.keys import Key, flag, integer, number, several, text
from jaxad.methods.afrad import afrad
from jaxad.methods.afrad_network import Stage
from jaxad.methods.beside import beside
from jaxad.methods.spade import spade
from jaxad.recipes.recipe import (
    Backbones,
    Phase,
    Recipe,
    one_network,
    read_through,
    steps_of_one_phase,
)

_STAGES = several(integer(least=1, most=100), distinct=True, what="stages")
_EACH = several(integer(least=1, most=65536), empty=False, what="stages")
_DEPTH = integer(least=0, most=100)

KEYS = {
    "backbone": Key("efficientnet_b4", text(empty=False), "architecture or weight file"),
    "random_weights": Key(False, flag(), "random instead of converted weights"),
    "levels": Key(
        (),
        several(text(empty=False), distinct=True, what="stages"),
        "names of the stages S_1, S_2, ..., shallow first; () = the usual ones",
    ),
    "mirror": Key(
        False, flag(), "features are the mean of a photo's and its mirror image's, turned back"
    ),
    "width": Key((64, 96, 128, 256), _EACH, "d_i: channels of each stage's tokens"),
    "patch_kernel": Key((8, 4, 2, 1), _EACH, "of each stage's patch embedding, positions"),
    "patch_stride": Key((2, 2, 2, 1), _EACH, "positions of each stage per token"),
    "refinements": Key(
        (1, 1, 1, 1),
        several(_DEPTH, empty=False, what="stages"),
        "feature refinement modules of each stage (Eq. 2)",
    ),
    "decodings": Key(
        (1, 1, 2, 2),
        several(_DEPTH, empty=False, what="stages"),
        "MLPs of each stage in the stage-adaptive decoder (Eq. 3)",
    ),
    "grid": Key(
        4, integer(least=1, most=100), "stage at whose resolution features are reconstructed"
    ),
    "decoder_width": Key(256, integer(least=1, most=65536), "channels of the three decoders"),
    "local": Key((1, 2), _STAGES, "stages of the focused local decoder; () = without it"),
    "compensation": Key((1, 2), _STAGES, "stages of the compensation decoder; () = without it"),
    "adaptive": Key((1, 2, 3, 4), _STAGES, "stages of the stage-adaptive decoder; () = without it"),
    "local_kernels": Key(
        (5, 7),
        several(integer(least=1, most=65536), empty=False, what="kernels"),
        "p of Eq. 8, tokens",
    ),
    "compensation_refinements": Key(1, _DEPTH, "of Eq. 2 in the compensation decoder"),
    "mlp_ratio": Key(4, integer(least=1, most=100), "inner width of every MLP over its outer"),
    "ngib_layers": Key(1, _DEPTH, "MLPs of Eq. 12; 0 = the decoders' outputs are added"),
    "refine": Key(True, flag(), "apply the feature refinement module (Table 7)"),
    "hidden": Key(
        (),
        several(several(integer(least=1, most=100), empty=False, what="stages"), what="groups"),
        "groups of stages, each rebuilt unseen, as ((1, 2, 3), (4,)); () = all from all",
    ),
    "whole": Key(False, flag(), "every stage is its mean over positions: classes of whole images"),
    "root": Key(False, flag(), "features enter as their square roots, with their sign (ours)"),
    "normalise": Key(
        0.0,
        number(least=0, most=1),
        "divide each position's features by this power of their length (ours)",
    ),
    "jitter": Key(
        1.2,
        number(least=0),
        "noise on the features in training, in units of their root mean square",
    ),
    "sum_of_scales": Key(False, flag(), "loss: sum over stages instead of the mean over channels"),
    "map_length": Key(
        0.0, number(least=0, most=1), "the score map gives this power of their length back (ours)"
    ),
    "image_stages": Key((), _STAGES, "stages of the image score; () = from the score map"),
    "relative": Key(
        0.0,
        number(least=0, most=1),
        "divide the image score by this power of the features' distance from the usual (ours)",
    ),
    "neighbours": Key(
        0,
        integer(least=0, most=1000),
        "the image score is also of the distance to so many nearest photos; 0 = not (ours)",
    ),
    "pooling": Key(
        16,
        integer(least=0, most=8192),
        "average pooling before the maximum, pixels; 0 = mean of the map",
    ),
    "top_share": Key(
        0.0,
        number(least=0, most=1),
        "image score = mean of this share of the highest pooled pixels; 0 = the maximum",
    ),
    "learning_rate": Key(1e-4, number(above=0), "of AdamW, the peak if scheduled"),
    "weight_decay": Key(1e-4, number(least=0), "of AdamW"),
    "clip": Key(0.1, number(least=0), "largest global norm of the gradient; 0 = any"),
    "one_cycle": Key(False, flag(), "cosine one-cycle schedule instead of one step down"),
}
"""Below `method`."""

PER_STAGE = ("width", "patch_kernel", "patch_stride", "refinements", "decodings")


def backbones(config: Any) -> Backbones:
    """Load the one network, and put `Mirrored` behind it if asked; raises as `one_network`."""
    return read_through(config, mirrored) if config.method.mirror else one_network(config)


def method(
    config: Any,
    networks: Mapping[str, Backbone],
    *,
    axis_name: str | None = None,
    subclasses: int = 0,
) -> tuple[Method, list[Phase]]:
    """Make AFRAD, trained in one phase on whole maps."""
    del axis_name, subclasses  # no statistics over the batch
    m, levels = config.method, tuple(networks["backbone"].levels)
    for key in PER_STAGE:
        if len(m[key]) != len(levels):
            raise InputError(
                f"method.{key} is {tuple(m[key])}: give {len(levels)} values, for the stages "
                f"{', '.join(levels)}"
            )
    steps = steps_of_one_phase(config, "AFRAD trains in one phase on whole maps")
    stages = [
        Stage(f"backbone/{level}", *values)
        for level, *values in zip(levels, *(m[key] for key in PER_STAGE))
    ]
    whole = afrad(
        stages,
        grid=m.grid,
        width=m.decoder_width,
        local=m.local,
        compensation=m.compensation,
        adaptive=m.adaptive,
        kernels=m.local_kernels,
        compensation_refinements=m.compensation_refinements,
        ratio=m.mlp_ratio,
        ngib_layers=m.ngib_layers,
        refine=m.refine,
        hidden=m.hidden,
        whole=m.whole,
        root=m.root,
        normalise=m.normalise,
        jitter=m.jitter,
        sum_of_scales=m.sum_of_scales,
        map_length=m.map_length,
        image_stages=m.image_stages,
        relative=m.relative,
        pooling=m.pooling,
        top_share=m.top_share,
        learning_rate=m.learning_rate,
        weight_decay=m.weight_decay,
        clip=m.clip,
        one_cycle=m.one_cycle,
    )
    names = tuple(stage.feature for stage in stages)
    if m.neighbours:
        near = {"neighbours": m.neighbours, "cosine": True, "root": m.root}
        whole = beside(whole, spade((), pooled=names[-1], **near))
    return whole, [Phase("all", whole, steps, 0, names)]


RECIPE = Recipe(KEYS, backbones, method)
