"""Sources of settings: command line, environment, configuration file.

A source maps the name of a setting to its texts and can name the place of each for error
messages. It parses only its own format, not the values.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from durable_streams_tw.service.settings_table import PREFIX, SETTINGS, TABLE

#: Environment variable that names the configuration file.
CONFIG_VARIABLE: Final = PREFIX + "CONFIG"

#: Environment variables of the client commands, which the server ignores.
CLIENT_VARIABLES: Final = frozenset(
    PREFIX + name for name in ("URL", "TOKEN", "TOKEN_FILE", "HEADERS", "CACERT")
)

#: Maximum size of a configuration file in bytes.
MAX_FILE: Final = 1 << 20

# Docker links and Kubernetes set such variables, and DURABLE_STREAMS_PORT=tcp://10.0.0.1:4437,
# for a service called durable-streams; they are not settings.
_LINKS: Final = re.compile(
    r"DURABLE_STREAMS_(NAME|SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP)(_\w+)?|ENV_\w+)"
)
# Strings and comments, which may contain newlines and brackets, and newlines and brackets outside
# them. A multi-line string may end with up to two quotes before its three closing ones.
_TOKEN: Final = re.compile(
    r'"""(?:\\.|[^"\\]|"{1,2}(?!"))*"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[\[\]{}\n]",
    re.DOTALL,
)
_AT: Final = re.compile(r" \(at (line \d+, column \d+|end of document)\)$")


class ConfigurationError(Exception):
    """The settings are invalid. ``problems`` has one message for each error."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class Source:
    """Texts of settings by name, from one place."""

    def __init__(self, given: Mapping[str, tuple[str, ...]]) -> None:
        self.given = dict(given)

    def label(self, name: str) -> str:
        """Return the name of a setting in this source, with its place, for an error message."""
        raise NotImplementedError

    def origin(self, name: str) -> str:
        """Return the place of a setting in a few words."""
        raise NotImplementedError


class CommandLine(Source):
    """Options of a command."""

    def label(self, name: str) -> str:
        """Return the option as it was given."""
        setting = SETTINGS[name]
        off = setting.kind == "flag" and self.given.get(name) == ("false",)
        return f"--no-{name}" if off else f"--{name}"

    def origin(self, name: str) -> str:
        """Return the option as it was given."""
        return self.label(name)


class Preset(Source):
    """Values that a command sets by default."""

    def __init__(self, given: Mapping[str, tuple[str, ...]], command: str) -> None:
        super().__init__(given)
        self._command = command

    def label(self, name: str) -> str:
        """Return the command and the setting."""
        return f"{self._command}: {name}"

    def origin(self, name: str) -> str:
        """Return the command."""
        return self._command


class Environment(Source):
    """Environment variables that begin with ``DURABLE_STREAMS_``.

    An empty variable counts as not set. A list is split at spaces. Raises `ConfigurationError`
    for an unknown variable, which is probably a typo.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        names = {setting.variable: setting for setting in TABLE}
        given = {}
        problems = []
        for variable, text in sorted(environment.items()):
            if not variable.startswith(PREFIX) or not text or _is_link(variable, text):
                continue
            setting = names.get(variable)
            if setting is not None:
                split = tuple(text.split()) if setting.kind == "list" else (text,)
                given[setting.name] = split
            elif variable not in {CONFIG_VARIABLE, *CLIENT_VARIABLES}:
                problems.append(
                    f"Unknown environment variable {variable!r}.{_suggestion(variable, names)}"
                )
        if problems:
            raise ConfigurationError(problems)
        super().__init__(given)

    def label(self, name: str) -> str:
        """Return the environment variable."""
        return SETTINGS[name].variable

    def origin(self, name: str) -> str:
        """Return the environment variable."""
        return SETTINGS[name].variable


class File(Source):
    """TOML file with settings as top-level keys.

    Raises `ConfigurationError` if it cannot be read or parsed, or has an unknown key or a value of
    the wrong type.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._text = _text_of(self.path)
        try:
            document = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError([self._syntax_error(str(error))]) from None
        super().__init__({})
        problems = []
        for key, value in document.items():
            problem = self._take(key, value)
            if problem is not None:
                problems.append(f"{self.origin(key)}: {problem}")
        if problems:
            raise ConfigurationError(problems)

    def label(self, name: str) -> str:
        """Return the path, the line and the key of a setting."""
        return f"{self.origin(name)}: {name}"

    def origin(self, name: str) -> str:
        """Return the path and the line of a setting."""
        return f"{self.path}, line {self._lines.get(name, 1)}"

    def _syntax_error(self, trouble: str) -> str:
        match = _AT.search(trouble)
        if match is None:
            return f"{self.path}: {trouble}"
        where = f", {match[1]}" if match[1].startswith("line") else ", end of file"
        trouble = trouble[: match.start()]
        return f"{self.path}{where}: {trouble[0].lower()}{trouble[1:]}"

    def _take(self, key: str, value: Any) -> str | None:
        """Store a value; return the error message if it has the wrong type."""
        setting = SETTINGS.get(key)
        if setting is None:
            if _is_table(value):
                return f"unknown table {key!r}. Settings are top-level keys, not in tables."
            return f"unknown setting {key!r}.{_suggestion(key, SETTINGS)}"
        if setting.kind == "flag":
            if not isinstance(value, bool):
                return f"{key}: expected true or false, without quotes"
            self.given[key] = ("true" if value else "false",)
            return None
        values = value if setting.kind == "list" and isinstance(value, list) else [value]
        for one in values:
            if isinstance(one, bool) or not isinstance(one, str | int | float):
                wanted = "a list of strings" if setting.kind == "list" else "a string or a number"
                return f"{key}: expected {wanted}"
        self.given[key] = tuple(str(one) for one in values)
        return None

    @cached_property
    def _lines(self) -> dict[str, int]:
        """Line on which each key begins."""
        return lines_of_keys(self._text)


def lines_of_keys(text: str) -> dict[str, int]:
    """Return the line on which each key of a TOML document first stands, in linear time.

    ``text`` is well-formed TOML. tomllib does not report positions, so this function splits the
    document into statements and has tomllib parse the key of each.
    """
    found: dict[str, int] = {}
    in_table = False
    for line, statement in _statements(text):
        header = statement.lstrip().startswith("[")
        in_table = in_table or header
        if header or not in_table:
            for key in tomllib.loads(statement):
                found.setdefault(key, line)
    return found


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield each statement of a TOML document with its first line.

    A statement is a key and its value, the header of a table, a comment or an empty line.
    """
    begin, line, depth = 0, 1, 0
    for token in _TOKEN.finditer(text):
        written = token[0]
        if written in ("[", "{"):
            depth += 1
        elif written in ("]", "}"):
            depth -= 1
        elif written == "\n" and not depth:
            statement = text[begin : token.end()]
            yield line, statement
            line += statement.count("\n")
            begin = token.end()
    yield line, text[begin:]


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigurationError([f"{path}: {error.strerror}"]) from None
    if len(raw) > MAX_FILE:
        raise ConfigurationError([f"{path}: the file is larger than 1 MiB"])
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigurationError([f"{path}, line {line}: not UTF-8"]) from None
    return text.replace("\r\n", "\n")


def _is_link(variable: str, text: str) -> bool:
    port = variable == PREFIX + "PORT" and text.startswith(("tcp://", "udp://"))
    return port or _LINKS.fullmatch(variable) is not None


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)
    )


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
