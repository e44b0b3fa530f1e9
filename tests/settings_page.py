"""The list of settings in docs/configuration.md, made from the table.

``python -m tests.settings_page`` writes it anew; a test compares.
"""

from __future__ import annotations

from pathlib import Path

from durable_streams_tw.service.settings_table import TABLE, Setting

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"
_BEGIN = "<!-- settings: written by `python -m tests.settings_page` -->\n"
_END = "<!-- end of settings -->\n"


def listed(page: str) -> str:
    """The page with the list as the table has it now."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}{_settings()}{_END}{after}"


def _settings() -> str:
    lines = []
    group = ""
    for setting in TABLE:
        if setting.group != group:
            group = setting.group
            lines += ["", f"### {group}"]
        lines += ["", *_entry(setting)]
    return "\n".join([*lines, "", ""])


def _entry(setting: Setting) -> list[str]:
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
        f"{meaning} {setting.more}".strip(),
        "",
        f"{option} · `{setting.variable}` · `{key}` · {default}",
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
