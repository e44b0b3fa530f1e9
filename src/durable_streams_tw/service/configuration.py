"""Effective settings: options override environment variables, which override the file."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from durable_streams_tw.http.settings import Settings
from durable_streams_tw.service.settings_table import SETTINGS
from durable_streams_tw.service.sources import (
    CONFIG_VARIABLE,
    Given,
    Source,
    command_line,
    configuration_file,
    environment_variables,
)
from durable_streams_tw.service.value_parsers import InvalidValue

# Settings that name the place of the streams, and exclude each other.
_STORES: Final = ("data-dir", "database")


class ConfigurationError(Exception):
    """The settings are invalid. ``problems`` has one message for each error.

    ``partial`` has the other settings, and defaults instead of invalid values.
    """

    def __init__(self, problems: Iterable[str], partial: Configuration | None = None) -> None:
        self.problems = tuple(problems)
        self.partial = partial
        super().__init__("\n".join(self.problems))


class Configuration:
    """Values of all settings, with their sources.

    The first of ``sources`` that has a setting determines its value; lists are not merged. Raises
    `ConfigurationError` with all errors, ``problems`` of the sources included.
    """

    def __init__(self, sources: Sequence[Source], problems: Iterable[str] = ()) -> None:
        self._sources = sources
        self._given: Mapping[str, Given] = ChainMap(*map(dict, sources))
        self._values: dict[str, Any] = {}
        problems = list(problems)
        for name, setting in SETTINGS.items():
            values = []
            for text in self.texts(name):
                try:
                    values.append(setting.parse(text))
                except InvalidValue as bad:
                    got = setting.redact(text)
                    problems.append(f"{self._label(name)}: {bad}, got {got!r}")
            if not values and setting.kind != "list":
                values = [*map(setting.parse, setting.defaults)]
            single = values[0] if values else None
            self._values[name] = tuple(values) if setting.kind == "list" else single
        if not problems:
            problems += self._combination_errors()
        if problems:
            raise ConfigurationError(problems, self)

    def __getitem__(self, name: str) -> Any:
        """Return the value of a setting: a tuple for a list, None if it has no value."""
        return self._values[name]

    @property
    def settings(self) -> Settings:
        """Settings of the streams and of the HTTP server."""
        fields = {row.field or row.name.replace("-", "_"): row.name for row in SETTINGS.values()}
        chosen = {name: self[fields[name]] for name in Settings.__struct_fields__ if name in fields}
        url = self["public-url"]
        chosen["public_url"] = None if url is None else f"{url}/{self['root'].decode('ascii')}"
        return Settings(**chosen, private=self["cache"] == "private")

    def texts(self, name: str) -> tuple[str, ...]:
        """Return the unparsed texts of a setting, empty if it has no value."""
        given = self._given.get(name)
        return SETTINGS[name].defaults if given is None else given.texts

    def origin(self, name: str) -> str:
        """Return the place of a setting in a few words."""
        return self._given[name].origin if name in self._given else "default"

    def overridden_by(self, name: str) -> str | None:
        """Return the setting that makes this one ineffective, None if there is none."""
        if name in ("port", "interface"):
            return "listen" if self["listen"] else None
        if name == "listen" and self.texts(name) and not self[name]:
            return "port" if "port" in self._given else "interface"
        if name in _STORES and self.texts(name) and not self[name]:
            return next(other for other in _STORES if other != name)
        return None

    def error(self, name: str, problem: str, text: str | None = None) -> ConfigurationError:
        """Return an error about a setting, for the caller to raise.

        ``problem`` says what is wrong; ``text`` is the element of a list that it is about.
        """
        element = "" if text is None else f" '{SETTINGS[name].redact(text)}'"
        return ConfigurationError([f"{self._label(name)}{element}: {problem}"])

    def _label(self, name: str) -> str:
        return self._given[name].label if name in self._given else name

    def _rank(self, name: str) -> int:
        """Return the number of the source of a setting, the highest for the default."""
        ranks = (rank for rank, source in enumerate(self._sources) if name in source)
        return next(ranks, len(self._sources))

    def _combination_errors(self) -> list[str]:
        """Return the errors of combinations; drop what a nearer source excludes."""
        problems = []
        for name in ("port", "interface"):
            if self["listen"] and self._rank(name) < self._rank("listen"):
                self._values["listen"] = ()
            elif self["listen"] and self._rank(name) == self._rank("listen"):
                problems.append(
                    f"{self._label('listen')}: cannot be combined with {name}; set one of them"
                )
        if self["data-dir"] and self["database"]:
            near, far = sorted(_STORES, key=self._rank)
            if self._rank(near) == self._rank(far):
                problems.append(
                    f"{self._label(far)}: cannot be combined with {near}; set one of them"
                )
            self._values[far] = None
        if self["max-stored"] is not None and self["data-dir"] is None:
            problems.append(f"{self._label('max-stored')}: requires data-dir")
        for name, needed in (("auth-cookie", "auth"), ("database-listen", "database")):
            if self[name] is not None and not self.texts(needed):
                problems.append(f"{self._label(name)}: requires {needed}")
        if self["rotate-webhook-key"] and self["webhook-keys"] is not None:
            problems.append(
                f"{self._label('rotate-webhook-key')}: cannot be combined with webhook-keys; run "
                f"`durable-streams-server webhook-keys {self['webhook-keys']}`"
            )
        memory = self["max-body-memory"]
        if memory is not None and memory < self["max-body"]:
            problems.append(f"{self._label('max-body-memory')}: must be at least max-body")
        return problems


def load_configuration(
    options: Mapping[str, Any], environment: Mapping[str, str], file: str | None
) -> Configuration:
    """Return the settings from options (see `command_line`), environment and file.

    ``file`` is the value of ``--config``, by default that of `CONFIG_VARIABLE`. Raises
    `ConfigurationError`.
    """
    problems: list[str] = []
    sources = [command_line(options), environment_variables(environment, problems)]
    path = file or environment.get(CONFIG_VARIABLE)
    if path:
        sources.append(configuration_file(path, problems))
    return Configuration(sources, problems)
