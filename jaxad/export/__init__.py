"""One file that scores: `jaxad.export.load` reads what `jaxad export` has written.

Needs jax and numpy, and none of the code that made the detector. docs/export.md says what is in a
file, and what a stranger's file can and can not do.
"""

from __future__ import annotations

from jaxad.export.reader import Exported, Routed, Scores, load

__all__ = ["Exported", "Routed", "Scores", "load"]
