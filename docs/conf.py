"""Sphinx: how these pages become a site. ``./check docs`` builds it, with warnings as errors."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

from durable_streams_tw import __version__

project = "durable-streams-tw"
author = "The durable-streams-tw maintainers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
root_doc = "index"
# Configuration files stand beside the pages that explain them.
exclude_patterns = ["_build", "**/_*"]

# Links such as protocol.md#errors.
myst_heading_anchors = 4

# Docstrings name things in `backticks`.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"durable-streams-tw {release}"
# Nothing that a reader's browser would have to fetch from elsewhere, and no copies of sources.
html_copy_source = False
html_show_copyright = False


def setup(app: Sphinx) -> None:
    """Called by Sphinx, once."""
    app.connect("autodoc-process-signature", _name_interfaces)


def _name_interfaces(
    app: Sphinx, kind: str, name: str, thing: object, options: Any, given: str, returned: str
) -> tuple[str, str] | None:
    # An interface of zope.interface is an object, which is no type to Sphinx.
    if "<InterfaceClass " not in f"{given} {returned}":
        return None
    pattern = re.compile(r"<InterfaceClass ([\w.]+)>")
    return pattern.sub(r"~\1", given or ""), pattern.sub(r"~\1", returned or "")
