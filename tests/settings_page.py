"""List of settings in docs/configuration.md, generated from the settings table.

``python -m tests.settings_page`` writes it; a test compares. The prose of a setting stands only in
the page, after the line with its option, and is kept.
"""

from __future__ import annotations

import re
from pathlib import Path

from durable_streams_tw.service.settings_table import GROUPS, Setting

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"
_BEGIN = "<!-- settings: written by `python -m tests.settings_page` -->\n"
_END = "<!-- end of settings -->\n"
# Name of a setting, its meaning, the line with its option, and its prose up to the next heading.
_PROSE = re.compile(r"^#### (.*)\n\n.*\n\n.*\n((?:(?!#).*\n)*)", re.MULTILINE)


def listed(page: str) -> str:
    """Return the page with the list that the table gives."""
    before, _, rest = page.partition(_BEGIN)
    entries, _, after = rest.partition(_END)
    prose = dict(_PROSE.findall(entries))
    lines = []
    for group, settings in GROUPS.items():
        lines += ["", f"### {group}"]
        for setting in settings:
            lines += ["", *_entry(setting, prose.get(setting.name, "").strip())]
    return f"{before}{_BEGIN}" + "\n".join([*lines, "", ""]) + f"{_END}{after}"


def _entry(setting: Setting, prose: str) -> list[str]:
    name = setting.name
    if setting.kind == "flag":
        option, key = f"`--{name}`, `--no-{name}`", f"{name} = {_other(setting)}"
    else:
        option = f"`--{name} {setting.metavar}`"
        if setting.short is not None:
            option = f"`-{setting.short}`, {option}"
        key = f"{name} = {_example(setting)}"
    default = f"default `{setting.default}`" if setting.default is not None else "no default"
    meaning = setting.meaning[0].upper() + setting.meaning[1:] + "."
    return [
        f"#### {name}",
        "",
        meaning,
        "",
        f"{option} · `{setting.variable}` · `{key}` · {default}",
        *(["", prose] if prose else []),
    ]


def _other(setting: Setting) -> str:
    return "false" if setting.default == "true" else "true"


def _example(setting: Setting) -> str:
    text = setting.default or "…"
    if text.isdigit():
        return text
    return f'["{text}"]' if setting.kind == "list" else f'"{text}"'


if __name__ == "__main__":
    PAGE.write_text(listed(PAGE.read_text("utf-8")), "utf-8")
