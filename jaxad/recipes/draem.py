"""From a configuration to DRAEM: the only reader of its `method.*` keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxad.backbones.pixels import IMAGE, pixels
from jaxad.core import Backbone, Method, Preprocess
from jaxad.keys import Key, integer, number, text
from jaxad.methods.draem import draem
from jaxad.recipes.efficientad import MOST_OTHERS, PIXELS, other_photos
from jaxad.recipes.recipe import Backbones, Phase, Recipe, steps_of_one_phase

KEYS = {
    "width": Key(
        128, integer(least=1, most=1024), "of the rebuilding network's first layers, channels"
    ),
    "telling_width": Key(
        64, integer(least=1, most=1024), "of the telling network's first layers, channels"
    ),
    "halvings": Key(
        5,
        integer(least=1, most=10),
        "how often the telling network halves the photo, the rebuilding one once less often; sides "
        "of photos are multiples of 2 to its power",
    ),
    "textures": Key(
        "",
        text(),
        "folder of photos of other things, such as DTD, that simulated defects are made of "
        f"(of more than {MOST_OTHERS} the first ones); '' = generated textures",
    ),
    "turn_share": Key(
        0.3,
        number(least=0, most=1),
        "share of the photos that are turned in a step, by up to 90 degrees",
    ),
    "learning_rate": Key(
        1e-4, number(above=0), "of Adam; a fifth of it after 80 %, a 25th after 90 % of the steps"
    ),
}
"""Below `method`."""


def backbones(config: Any) -> Backbones:
    """Give pixels, 0 to 1: there is no frozen network."""
    del config
    seen, nothing = pixels(Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
    return Backbones({PIXELS: seen}, {PIXELS: nothing}, {})


def method(
    config: Any,
    networks: Mapping[str, Backbone],
    *,
    axis_name: str | None = None,
    subclasses: int = 0,
) -> tuple[Method, list[Phase]]:
    """Make DRAEM, trained in one phase on whole photos.

    Raises:
        InputError: The configuration speaks of other phases, or of positions.
    """
    del subclasses
    m = config.method
    steps = steps_of_one_phase(config, "DRAEM trains in one phase on whole photos")
    photo, (height, width) = f"{PIXELS}/{IMAGE}", config.data.image_size
    whole = draem(
        photo,
        prepare=networks[PIXELS].preprocess,
        width=m.width,
        telling_width=m.telling_width,
        halvings=m.halvings,
        textures=other_photos(m.textures, (height, width)),
        turn_share=m.turn_share,
        learning_rate=m.learning_rate,
        axis_name=axis_name,
    )
    return whole, [Phase("all", whole, steps, 0, (photo,))]


RECIPE = Recipe(KEYS, backbones, method)
