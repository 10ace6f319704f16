"""A page of what was judged: the overlays that lie beside it, highest scores first.

It holds no photo itself, and runs no script: pictures are those of the folder `overlays`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from jaxad.report.html import part, template

_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; img-src 'self' file:; "
    "style-src 'unsafe-inline'"
)


class Shown(NamedTuple):
    """One photo of the page."""

    name: str
    """As it was named."""
    overlay: str
    """Where its overlay lies from the page, parts joined by "/"."""
    decision: str
    score: float
    threshold: float
    p_value: float


def judged_page(
    title: str,
    about: str,
    lines: Sequence[str],
    photos: Sequence[Shown],
    errors: Sequence[str],
    *,
    total: int,
    unreadable: int,
) -> str:
    """The page, as HTML.

    Args:
        title: Its heading.
        about: A line above it.
        lines: What is said below it.
        photos: Those that are shown, in their order.
        errors: Why photos could not be read, for some of them.
        total: Photos that were judged.
        unreadable: Photos that could not be read.
    """
    return template("judged.html.jinja").render(
        policy=_POLICY,
        style=Markup(part("style.css")),
        title=title,
        about=about,
        lines=lines,
        shown=f"{len(photos)} of {total} photos; predictions.csv has all",
        photos=[
            {
                "name": one.name,
                "link": one.overlay,
                "decision": one.decision,
                "score": f"{one.score:.4g}",
                "threshold": f"{one.threshold:.4g}",
                "p_value": f"{one.p_value:.3g}",
            }
            for one in photos
        ],
        errors=errors,
        unread=f"{len(errors)} of {unreadable}",
    )
