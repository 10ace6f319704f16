"""Check a converted weight file, and show what its network makes of a photo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxad.backbones import ARCHITECTURES, load_backbone, weights
from jaxad.core import Backbone, Features, InputError, Variables
from jaxad.data.images import decode_image, read_header
from ports import listing
from ports.convert import weights_folder

MAX_SIDE = 1024
"""Pixels of a photo along one side: more takes gigabytes at the first levels."""


def verify(
    name_or_path: str, *, image: str | Path | None = None, levels: Sequence[str] | None = None
) -> str:
    """Load a converted file as scoring does, and say what it holds.

    Its metadata, the names and shapes of its arrays and that their values are finite are checked.

    Args:
        name_or_path: Name of an architecture, looked for in `weights_folder()` first, or a file.
        image: A photo whose features are described; None: none.
        levels: The levels to show; None: all that the file reaches.

    Returns:
        Lines of text.

    Raises:
        InputError: The file is missing, damaged or does not fit its architecture, there is no such
            level, or the photo can not be used.
    """
    path = weights.find(name_or_path, weights_folder())
    variables, metadata = weights.read(path)
    known = ARCHITECTURES.get(metadata.architecture)
    reached = [level for level in metadata.levels if known and level in known.levels]
    backbone, folded = load_backbone(
        name_or_path, levels=levels or reached or None, folder=weights_folder()
    )
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    text = listing.rows(
        [
            ("file", path),
            ("architecture", metadata.architecture),
            ("levels", ", ".join(metadata.levels)),
            *listing.provenance(metadata),
            ("parameters", f"{parameters:,}"),
            ("bytes", f"{path.stat().st_size:,}"),
        ]
    )
    table = _with_features(backbone, folded, Path(image)) if image else _without(backbone)
    return f"{text}\n\n{listing.align(table)}"


def statistics(features: Features) -> dict[str, tuple[float, float, float, float, float]]:
    """Describe each level by its mean, standard deviation, extremes and share of zeros.

    Raises:
        InputError: A value is not finite.
    """
    described = {}
    for name, array in features.items():
        x = np.asarray(array, np.float64)
        if not np.isfinite(x).all():
            raise InputError(f"the features of {name} are not finite; the weights are damaged")
        described[name] = (x.mean(), x.std(), x.min(), x.max(), float((x == 0).mean()))
    return described


def _without(backbone: Backbone) -> list[tuple[str, ...]]:
    table: list[tuple[str, ...]] = [("level", "channels", "stride")]
    for name, level in backbone.levels.items():
        table.append((name, str(level.channels), str(level.stride)))
    return table


def _with_features(backbone: Backbone, variables: Variables, path: Path) -> list[tuple[str, ...]]:
    """Make a table of the features of a photo, which is taken at its own size."""
    height, width = read_header(path).size
    least = max(level.stride for level in backbone.levels.values())
    if max(height, width) > MAX_SIDE or min(height, width) < least:
        raise InputError(
            f"{path}: is {width}x{height} pixels; scale it to {least} to {MAX_SIDE} along each side"
        )
    pixels = decode_image(path, size=(height, width))
    features = jax.jit(backbone.features)(variables, pixels[None])
    head, *table = _without(backbone)
    head += ("height", "width", "mean", "std", "min", "max", "zeros")
    for i, (name, (*numbers, zeros)) in enumerate(statistics(features).items()):
        place = (str(n) for n in features[name].shape[1:3])
        table[i] += (*place, *(f"{x:.4f}" for x in numbers), f"{zeros:.1%}")
    return [head, *table]
