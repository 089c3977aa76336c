"""Sphinx: MyST pages, the furo theme, the reference from docstrings."""

from importlib.metadata import version as version_of

project = "servekit"
author = "the servekit developers"
copyright = "the servekit developers"
release = version = version_of("servekit")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"servekit {release}"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
default_role = "code"
