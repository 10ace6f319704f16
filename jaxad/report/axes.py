"""The frame that small plots share, as inline SVG in the colours of the page's style sheet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_WIDTH, _HEIGHT = 360, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 14, 40


def x_of(share: float) -> float:
    """Abscissa of a share of the plot's width."""
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def y_of(share: float) -> float:
    """Ordinate of a share of the plot's height, counted from below."""
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def svg(label: str, body: Iterable[str], *, kind: str = "", scale: Sequence[float] = ()) -> str:
    """A plot.

    Args:
        label: For readers who do not see it.
        body: Its elements.
        kind: What the page's script moves in it.
        scale: The values at the left and the right end of the axis that a threshold lies on.
    """
    text = escape(label)
    box = ",".join(f"{v:.1f}" for v in (x_of(0), x_of(1), y_of(0), y_of(1)))
    moved = f' data-plot="{kind}" data-box="{box}"' if kind else ""
    if len(scale):
        moved += f' data-scale="{",".join(repr(float(v)) for v in scale)}"'
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text}"{moved}>'
        f"<title>{text}</title>{''.join(body)}</svg>"
    )


def unit_frame(x_name: str, y_name: str, *, x_end: float = 1.0) -> list[str]:
    """Grid, axes and names of a plot of shares over shares, the latter up to `x_end`."""
    return [
        *(line(x_of(0), y_of(t), x_of(1), y_of(t), "grid") for t in (0.5, 1)),
        *(line(x_of(t), y_of(0), x_of(t), y_of(1), "grid") for t in (0.5, 1)),
        axes(y_of(0)),
        *(text(x_of(t), y_of(0) + 16, f"{t * x_end:g}", "middle") for t in (0, 0.5, 1)),
        *(text(x_of(0) - 7, y_of(t) + 4, f"{t:g}", "end") for t in (0, 0.5, 1)),
        *names(x_name, y_name),
    ]


def names(x_name: str, y_name: str) -> list[str]:
    """What the two axes say."""
    y = (y_of(0) + y_of(1)) / 2
    return [
        text(x_of(0.5), _HEIGHT - 6, x_name, "middle"),
        f'<text class="tick" transform="translate(12 {y:.1f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_name)}</text>',
    ]


def curve(points: Iterable[tuple[float, float]], name: str = "curve") -> str:
    """A line through points, given as shares; those that fall together are one."""
    shown = dict.fromkeys(f"{x_of(a):.1f},{y_of(b):.1f}" for a, b in points)
    return f'<polyline class="{name}" points="{" ".join(shown)}"/>'


def area(points: Sequence[tuple[float, float]]) -> str:
    """What lies below a line."""
    ends = [(points[0][0], 0.0), *points, (points[-1][0], 0.0)]
    shown = " ".join(f"{x_of(a):.1f},{y_of(b):.1f}" for a, b in ends)
    return f'<polygon class="area" points="{shown}"/>'


def upright_mark(share: float) -> str:
    """Where a threshold lies on the axis."""
    return line(x_of(share), y_of(1), x_of(share), y_of(0), "mark")


def dot_mark(x: float, y: float) -> str:
    """Where a threshold lies on a curve."""
    return f'<circle class="mark" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="5"/>'


def line(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    """A straight line."""
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def axes(level: float) -> str:
    """Both axes, that of x at a level."""
    return line(x_of(0), y_of(1), x_of(0), y_of(0), "axis") + line(
        x_of(0), level, x_of(1), level, "axis"
    )


def text(x: float, y: float, text: str, anchor: str, name: str = "tick") -> str:
    """Words."""
    return (
        f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )
