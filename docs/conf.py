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
# Types that a page explains itself.
autodoc_type_aliases = {
    name: name for name in ("Fields", "Value", "ErrorHook", "RetryHook", "FailureHook")
}
maximum_signature_line_length = 88
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"durable-streams-tw {release}"
# The site loads nothing from other hosts and contains no copies of the sources.
html_copy_source = False
html_show_copyright = False


def setup(app: Sphinx) -> None:
    """Register the event handlers. Sphinx calls this once."""
    app.connect("autodoc-process-signature", _simplify)


def _simplify(
    app: Sphinx, kind: str, name: str, thing: object, options: Any, given: str, returned: str
) -> tuple[str, str] | None:
    if not given:
        return None
    # Programs catch exceptions and do not make them.
    if kind == "exception":
        return "", ""
    # Sphinx prints interfaces, aliases and bound methods as objects.
    objects = re.compile(
        r"<InterfaceClass (?P<type>[\w.]+)>|TypeAliasForwardRef\('(?P<alias>\w+)'\)"
        r"|<built-in method (?P<method>\w+) of \w+ object>"
    )

    def named(text: str) -> str:
        return objects.sub(lambda found: found["alias"] or found["method"] or f"~{found[1]}", text)

    return named(given), named(returned or "")
