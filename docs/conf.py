"""The site: `make docs` builds it into docs/_build/html; the reference is made of docstrings."""

from __future__ import annotations

import jaxad

project = "jaxad"
copyright = "the authors of jaxad, Apache-2.0"
release = version = jaxad.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
suppress_warnings = ["myst.header", "docutils", "ref.python"]  # headings of one name in a module

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "undoc-members": False, "show-inheritance": False}
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"jaxad {release}"
html_show_sphinx = False
