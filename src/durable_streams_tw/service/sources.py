"""Sources of settings: command line, environment, configuration file.

A source maps names of settings to texts, and says where each was given. It parses only its own
format, not the values. Each function appends an error message for what it cannot use to
``problems``.
"""

from __future__ import annotations

import errno
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Final

from msgspec import Struct

from durable_streams_tw.service.settings_table import PREFIX, SETTINGS

#: Environment variable that names the configuration file.
CONFIG_VARIABLE: Final = PREFIX + "CONFIG"

#: Environment variables of the client commands, which the server ignores.
CLIENT_VARIABLES: Final = frozenset(
    PREFIX + name for name in ("URL", "TOKEN", "TOKEN_FILE", "HEADERS", "CACERT")
)

#: Maximum size of a configuration file in bytes.
MAX_FILE: Final = 1 << 20

_QUOTES: Final = 'Text, sizes and times need quotes: max-body = "8MiB"'
#: Advice for messages of tomllib that begin like this.
_HINTS: Final = {
    "Expected newline": _QUOTES,
    "Invalid value": _QUOTES,
    "Cannot overwrite": "The key is in the file twice",
}

# Docker links and Kubernetes set such variables, and DURABLE_STREAMS_PORT=tcp://10.0.0.1:4437,
# for a service called durable-streams; they are not settings.
_LINKS: Final = re.compile(
    r"DURABLE_STREAMS_((NAME|SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP)(_\w+)?|ENV_\w+)=.*"
    r"|PORT=(tcp|udp)://.*)",
    re.DOTALL,
)
# Strings, which may contain newlines and "#", and comments. A multi-line string may end with up to
# two quotes before its three closing ones.
_STRING_OR_COMMENT: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|\#[^\n]*',
    re.DOTALL,
)
_CADDYFILE: Final = re.compile(r"^\s*durable_streams\s*(?:\{|$)", re.MULTILINE)
_KEY: Final = re.compile(
    r"""[ \t]*(?:\[\[?[ \t]*)?([\w-]+|"(?:\\.|[^"\\])*"|'[^']*')[ \t]*(?:[=.]|\]\]?[ \t]*$)"""
)


class Given(Struct, frozen=True):
    """Texts of a setting, and where they were given.

    ``origin`` is an option, a variable, or a file and a line; ``label`` names the setting too, and
    begins an error message.
    """

    texts: tuple[str, ...]
    origin: str
    label: str


Source = Mapping[str, Given]


def command_line(values: Mapping[str, Any]) -> Source:
    """Return the options that were given.

    ``values`` has a text, a bool, a sequence of texts, or None for an option that is absent.
    """
    source = {}
    for name, value in values.items():
        if value is not None and value not in ((), []):
            texts = _texts(value)
            off = SETTINGS[name].kind == "flag" and texts == ("false",)
            option = f"--no-{name}" if off else f"--{name}"
            source[name] = Given(texts, option, option)
    return source


def preset(command: str, values: Mapping[str, str]) -> Source:
    """Return the values that a command sets by default."""
    return {name: Given((text,), command, f"{command}: {name}") for name, text in values.items()}


def environment_variables(environment: Mapping[str, str], problems: list[str]) -> Source:
    """Return the settings among the environment variables.

    An empty variable counts as not set. A list is split at spaces. An unknown variable with the
    prefix is an error, because it is probably a typo.
    """
    source = {}
    settings = {setting.variable: setting for setting in SETTINGS.values()}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX) or not text or _LINKS.fullmatch(f"{variable}={text}"):
            continue
        setting = settings.get(variable)
        if setting is not None:
            texts = tuple(text.split()) if setting.kind == "list" else (text,)
            source[setting.name] = Given(texts, variable, variable)
        elif variable not in {CONFIG_VARIABLE, *CLIENT_VARIABLES}:
            problems.append(
                f"Unknown environment variable {variable!r}.{_suggestion(variable, settings)}"
            )
    return source


def configuration_file(path: str, problems: list[str]) -> Source:
    """Return the top-level keys of a TOML file."""
    raw = b""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_FILE + 1)
        if len(raw) > MAX_FILE:
            raise OSError(errno.EFBIG, "the file is larger than 1 MiB")
        text = raw.decode("utf-8").replace("\r\n", "\n")
        document = tomllib.loads(text)
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
        return {}
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problems.append(f"{path}, line {line}: not UTF-8")
        return {}
    except tomllib.TOMLDecodeError as error:
        if _CADDYFILE.search(text) or os.path.basename(path).startswith("Caddyfile"):
            problems.append(
                f"{path} is a Caddyfile, not TOML. Convert it: "
                f"durable-streams-server config convert {path}"
            )
            return {}
        reason, _, place = str(error).removesuffix(")").partition(" (at ")
        place = place.replace("end of document", "end of file")
        hints = [hint for start, hint in _HINTS.items() if reason.startswith(start)]
        problems.append(f"{path}, {place}: {'. '.join([reason[0].lower() + reason[1:], *hints])}")
        return {}
    source = {}
    lines = lines_of_keys(text)
    for key, value in document.items():
        place = f"{path}, line {lines.get(key, 1)}"
        problem = _type_error(key, value)
        if problem is not None:
            problems.append(f"{place}: {problem}")
        else:
            source[key] = Given(_texts(value), place, f"{place}: {key}")
    return source


def lines_of_keys(text: str) -> dict[str, int]:
    """Return the line on which each key of a TOML document first stands, those of tables included.

    tomllib does not report positions. ``text`` is well-formed TOML.
    """
    found: dict[str, int] = {}
    plain = _STRING_OR_COMMENT.sub(_without_lines, text)
    for line, statement in enumerate(plain.split("\n"), 1):
        match = _KEY.match(statement)
        if match is not None:
            (key,) = tomllib.loads(f"{match[1]}=0")
            found.setdefault(key, line)
    return found


def _without_lines(match: re.Match[str]) -> str:
    """Return a string of one line unchanged, and only the newlines of other strings."""
    lines = match[0].count("\n")
    return "\n" * lines if lines or match[0].startswith("#") else match[0]


def _type_error(key: str, value: Any) -> str | None:
    """Return the error message if a value has the wrong type for its setting."""
    setting = SETTINGS.get(key)
    if setting is None:
        tables = value if isinstance(value, list) else [value]
        if tables and all(isinstance(one, dict) for one in tables):
            return f"unknown table {key!r}. Settings are top-level keys, not in tables."
        return f"unknown setting {key!r}.{_suggestion(key, SETTINGS)}"
    if setting.kind == "flag":
        return None if isinstance(value, bool) else f"{key}: expected true or false, without quotes"
    values = value if setting.kind == "list" and isinstance(value, list) else [value]
    if all(type(one) in (str, int, float) for one in values):
        return None
    wanted = "a list of strings" if setting.kind == "list" else "a string or a number"
    return f"{key}: expected {wanted}"


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple) else (value,)
    return tuple(str(one).lower() if isinstance(one, bool) else str(one) for one in values)


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
