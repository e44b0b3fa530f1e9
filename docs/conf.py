"""Configuration of Sphinx. ``./check docs`` builds the site, with warnings as errors."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

from durable_streams_tw import __version__

project = "durable-streams-tw"
author = "The durable-streams-tw maintainers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
# Copy the commands of a console block without prompts and output.
copybutton_prompt_text = "$ "
source_suffix = {".md": "markdown"}
root_doc = "index"
exclude_patterns = ["_build", "**/_*"]

# Links such as protocol.md#errors.
myst_heading_anchors = 4
# "term" and ": meaning" on the next line.
myst_enable_extensions = ["deflist"]

# Docstrings use single backticks for code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"durable-streams-tw {release}"
# The site loads nothing from other hosts and contains no copies of the sources.
html_copy_source = False
html_show_copyright = False


def setup(app: Sphinx) -> None:
    """Register the event handlers. Sphinx calls this once."""
    app.connect("autodoc-process-signature", _name_interfaces)


def _name_interfaces(
    app: Sphinx, kind: str, name: str, thing: object, options: Any, given: str, returned: str
) -> tuple[str, str] | None:
    # Sphinx prints interfaces of zope.interface as objects, not as types.
    if "<InterfaceClass " not in f"{given} {returned}":
        return None
    pattern = re.compile(r"<InterfaceClass ([\w.]+)>")
    return pattern.sub(r"~\1", given or ""), pattern.sub(r"~\1", returned or "")
