"""The page at `/`: one file that loads nothing, with a policy that allows its own script alone."""

from __future__ import annotations

from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from jaxad.report.html import policy_hash
from jaxad.runs.models import Judge
from jaxad.serve.bounds import Bounds


def make_page(judge: Judge, bounds: Bounds) -> tuple[bytes, str]:
    """The page and its content security policy.

    The template escapes every text: a category may be called anything.
    """
    style, script = _part("page.css"), _part("page.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = environment.from_string(_part("page.html.jinja")).render(
        style=Markup(style),
        script=Markup(script),
        category=judge.category,
        model=judge.id,
        false_alarm=f"{100 * judge.false_alarm:g} %",
        max_body=bounds.max_body,
    )
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src '{policy_hash(script)}'",
            f"style-src '{policy_hash(style)}'",
            "img-src blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
    # A name may hold lone surrogates.
    return page.encode("utf-8", "backslashreplace"), policy


def _part(name: str) -> str:
    return resources.files("jaxad.serve").joinpath(name).read_text("utf-8")
