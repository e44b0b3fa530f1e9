"""Where settings are said: on the command line, in the environment, in a file.

Each source gives texts by the name of a setting, and knows how to point to each of them.
Nothing is parsed here but what the source itself is written in.
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

#: Names the file in the environment.
CONFIG_VARIABLE: Final = PREFIX + "CONFIG"

#: Variables with our prefix that are for the client commands, not for the server.
CLIENT_VARIABLES: Final = frozenset(
    PREFIX + name for name in ("URL", "TOKEN", "TOKEN_FILE", "HEADERS", "CACERT")
)

#: The largest file that is read.
MAX_FILE: Final = 1 << 20

# Docker's links and Kubernetes describe a service called durable-streams in variables like these,
# and in DURABLE_STREAMS_PORT=tcp://10.0.0.1:4437: nobody has written them.
_LINKS: Final = re.compile(
    r"DURABLE_STREAMS_(NAME|SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP)(_\w+)?|ENV_\w+)"
)
# Strings and comments, in which a newline or a bracket means nothing, and newlines and brackets. A
# string of several lines may end with two quotes of its own before the three that close it.
_TOKEN: Final = re.compile(
    r'"""(?:\\.|[^"\\]|"{1,2}(?!"))*"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[\[\]{}\n]",
    re.DOTALL,
)
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+")
_AT: Final = re.compile(r" \(at (line \d+, column \d+|end of document)\)$")


class ConfigurationError(Exception):
    """The settings cannot be used; ``problems`` has a sentence for each reason."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class Source:
    """Texts by setting, and how to point to each of them."""

    def __init__(self, given: Mapping[str, tuple[str, ...]]) -> None:
        self.given = dict(given)

    def label(self, name: str) -> str:
        """How a sentence about a setting begins."""
        raise NotImplementedError

    def origin(self, name: str) -> str:
        """Where a setting was said, in a word or two."""
        raise NotImplementedError


class CommandLine(Source):
    """What was given as options."""

    def label(self, name: str) -> str:
        """The option."""
        setting = SETTINGS[name]
        off = setting.kind == "flag" and self.given.get(name) == ("false",)
        return f"--no-{name}" if off else f"--{name}"

    def origin(self, name: str) -> str:
        """The option."""
        return self.label(name)


class Preset(Source):
    """What a command sets by itself."""

    def __init__(self, given: Mapping[str, tuple[str, ...]], command: str) -> None:
        super().__init__(given)
        self._command = command

    def label(self, name: str) -> str:
        """The setting, of that command."""
        return f"{self._command}: {name}"

    def origin(self, name: str) -> str:
        """The command."""
        return self._command


class Environment(Source):
    """Variables that begin with ``DURABLE_STREAMS_``.

    An empty one counts as not set. A list is split at spaces. Raises `ConfigurationError` for
    variables that mean nothing: a typo would go unnoticed otherwise.
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
                problems.append(f"{variable} is no variable of this server{_near(variable, names)}")
        if problems:
            raise ConfigurationError(problems)
        super().__init__(given)

    def label(self, name: str) -> str:
        """The variable."""
        return SETTINGS[name].variable

    def origin(self, name: str) -> str:
        """The variable."""
        return SETTINGS[name].variable


class File(Source):
    """A TOML file: settings by name, all at the top.

    Raises `ConfigurationError` where it cannot be read, is no TOML, has a key that is no setting or
    a value that no text could stand for.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._text = _text_of(self.path)
        try:
            document = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError([self._no_toml(str(error))]) from None
        super().__init__({})
        problems = []
        for key, value in document.items():
            problem = self._take(key, value)
            if problem is not None:
                problems.append(f"{self.label(key)} {problem}")
        if problems:
            raise ConfigurationError(problems)

    def label(self, name: str) -> str:
        """File, line and key."""
        plain = _PLAIN.fullmatch(name) is not None
        return f"{self.origin(name)}: {name if plain else repr(name)}"

    def origin(self, name: str) -> str:
        """File and line."""
        return f"{self.path}, line {self._lines.get(name, 1)}"

    def _no_toml(self, trouble: str) -> str:
        match = _AT.search(trouble)
        if match is None:
            return f"{self.path}: {trouble}"
        where = f", {match[1]}" if match[1].startswith("line") else ", at its end"
        trouble = trouble[: match.start()]
        return f"{self.path}{where}: {trouble[0].lower()}{trouble[1:]}"

    def _take(self, key: str, value: Any) -> str | None:
        """Keep a value, or say what is wrong with it."""
        setting = SETTINGS.get(key)
        if setting is None:
            tables = "; settings stand at the top, not in tables"
            return f"is no setting{_near(key, SETTINGS)}{tables if _is_table(value) else ''}"
        if setting.kind == "flag":
            if not isinstance(value, bool):
                return "is true or false, without quotes"
            self.given[key] = ("true" if value else "false",)
            return None
        values = value if setting.kind == "list" and isinstance(value, list) else [value]
        for one in values:
            if isinstance(one, bool) or not isinstance(one, str | int | float):
                wanted = "a list of texts" if setting.kind == "list" else "a text or a number"
                return f"is {wanted}"
        self.given[key] = tuple(str(one) for one in values)
        return None

    @cached_property
    def _lines(self) -> dict[str, int]:
        """The line that each key begins on."""
        return lines_of_keys(self._text)


def lines_of_keys(text: str) -> dict[str, int]:
    """Return the line on which each key of a TOML document first stands, in linear time.

    ``text`` is well-formed TOML. tomllib keeps no positions, so the document is cut into
    statements here, and tomllib is asked for the key of each.
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
    """Yield the statements of a TOML document with the line that each begins on: a key and its
    value, the header of a table, a comment or an empty line."""
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
        raise ConfigurationError([f"{path} has more than a mebibyte: that is no configuration"])
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigurationError([f"{path}, line {line}: this is not UTF-8"]) from None
    return text.replace("\r\n", "\n")


def _is_link(variable: str, text: str) -> bool:
    port = variable == PREFIX + "PORT" and text.startswith(("tcp://", "udp://"))
    return port or _LINKS.fullmatch(variable) is not None


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)
    )


def _near(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f": is {close[0]} meant?" if close else ""
