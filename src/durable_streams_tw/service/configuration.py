"""Effective settings: options override environment variables, which override the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from durable_streams_tw.http.settings import Settings
from durable_streams_tw.service.settings_table import SETTINGS, TABLE, Setting
from durable_streams_tw.service.sources import (
    CONFIG_VARIABLE,
    CommandLine,
    ConfigurationError,
    Environment,
    File,
    Source,
)
from durable_streams_tw.service.value_parsers import InvalidValue


class Configuration:
    """Values of all settings, with their sources.

    The first of ``sources`` that has a setting determines its value; lists are not merged. Raises
    `ConfigurationError` with all errors.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = tuple(sources)
        self._values: dict[str, Any] = {}
        problems: list[str] = []
        for setting in TABLE:
            try:
                self._values[setting.name] = self._value(setting)
            except ConfigurationError as bad:
                problems += bad.problems
        if not problems:
            problems += self._combination_errors()
        if problems:
            raise ConfigurationError(problems)

    def __getitem__(self, name: str) -> Any:
        """Return the value of a setting: a tuple for a list, None if it has no value."""
        return self._values[name]

    @property
    def settings(self) -> Settings:
        """Settings of the streams and of the HTTP server."""
        chosen = {row.field: self[row.name] for row in TABLE if row.field is not None}
        url = self["public-url"]
        return Settings(
            **chosen,
            private=self["cache"] == "private",
            public_url=None if url is None else f"{url}/{self['root'].decode('ascii')}",
        )

    def source(self, name: str) -> Source | None:
        """Return the source that determines a setting, None if the default applies."""
        return next((source for source in self._sources if name in source.given), None)

    def texts(self, name: str) -> tuple[str, ...]:
        """Return the unparsed texts of a setting, empty if it has no value."""
        source = self.source(name)
        return SETTINGS[name].defaults if source is None else source.given[name]

    def origin(self, name: str) -> str:
        """Return the place of a setting in a few words."""
        source = self.source(name)
        return "default" if source is None else source.origin(name)

    def overridden_by(self, name: str) -> str | None:
        """Return the setting that makes this one ineffective, None if there is none."""
        if name in ("port", "interface"):
            return "listen" if self["listen"] else None
        if name == "listen" and self.texts(name) and not self[name]:
            return "port" if self.source("port") is not None else "interface"
        return None

    def error(self, name: str, problem: str, text: str | None = None) -> ConfigurationError:
        """Return an error about a setting, for the caller to raise.

        ``problem`` says what is wrong; ``text`` is the element of a list that it is about.
        """
        source = self.source(name)
        subject = name if source is None else source.label(name)
        if text is not None and not SETTINGS[name].secret:
            subject += f" '{SETTINGS[name].printable(text)}'"
        return ConfigurationError([f"{subject}: {problem}"])

    def _value(self, setting: Setting) -> Any:
        values = []
        for text in self.texts(setting.name):
            try:
                values.append(setting.parse(text))
            except InvalidValue as bad:
                got = "" if setting.secret else f", got {setting.printable(text)!r}"
                raise self.error(setting.name, f"{bad}{got}") from None
        if setting.kind == "list":
            return tuple(values)
        return values[0] if values else None

    def _combination_errors(self) -> list[str]:
        """Return the errors of combinations; drop ``listen`` if a nearer source has a port."""
        problems: list[str] = []
        listen = self.source("listen")
        if listen is not None and self["listen"]:
            for name in ("port", "interface"):
                other = self.source(name)
                if other is listen:
                    problems += self.error(
                        "listen", f"cannot be combined with {name}; set one of them"
                    ).problems
                elif other is not None and self._rank(other) < self._rank(listen):
                    self._values["listen"] = ()
        if self["max-stored"] is not None and self["data-dir"] is None:
            problems += self.error("max-stored", "requires data-dir").problems
        memory = self["max-body-memory"]
        if memory is not None and memory < self["max-body"]:
            problems += self.error("max-body-memory", "must be at least max-body").problems
        return problems

    def _rank(self, source: Source) -> int:
        return self._sources.index(source)


def load_configuration(
    given: Mapping[str, tuple[str, ...]], environment: Mapping[str, str], file: str | None
) -> Configuration:
    """Return the settings from options, environment and file.

    ``given`` has the texts of the options; ``file`` is the value of ``--config``, by default that
    of `CONFIG_VARIABLE`. Raises `ConfigurationError`.
    """
    path = file or environment.get(CONFIG_VARIABLE)
    sources: list[Source] = [CommandLine(given), Environment(environment)]
    if path:
        sources.append(File(path))
    return Configuration(sources)
