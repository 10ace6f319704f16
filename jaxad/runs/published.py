"""Whether a run is a published one: its configuration against the shipped one that follows it."""

from __future__ import annotations

from typing import Any

from jaxad.config import flat, load_file, shipped
from jaxad.errors import InputError
from jaxad.own_keys import MAY_CHANGE
from jaxad.report.papers import Beside, published

_HARMLESS = {
    *MAY_CHANGE,
    *("train.seed", "train.replicates", "train.parallel", "train.feature_cache"),
    *("score.batch_size", "score.runtime", "data.test_subclasses", "data.join"),
}
"""Keys that leave a recipe what it is, or that papers do not tell."""


def beside(config: Any) -> Beside | None:
    """The published figures of a configuration's method on its data set, if there are any.

    With them, every key by which it differs from the shipped configuration that follows the paper.
    """
    paper = published(config.method.name, config.data.layout, config.data.categories)
    if paper is None or shipped(paper.config.partition(":")[0]) is None:
        return None
    try:
        theirs = flat(load_file(paper.config).to_dict())
    except InputError:  # of a stranger's folder of configurations
        return None
    ours = flat(config.to_dict())
    # Categories are detectors of their own, unless one detector learns them all.
    harmless = _HARMLESS if config.data.one_for_all else {*_HARMLESS, "data.categories"}
    return Beside(
        paper,
        tuple(
            f"{name} {ours.get(name)!r} instead of {theirs.get(name)!r}"
            for name in sorted(ours.keys() | theirs.keys())
            if name not in harmless
            and not name.startswith(("data.folder.", "data.texture_ad."))
            and ours.get(name) != theirs.get(name)
        ),
    )
