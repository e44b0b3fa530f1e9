"""What the sources come to together: flag over environment over file over default."""

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
    """Every setting's value, and where it comes from.

    ``sources`` are asked in their order: the first that has a setting decides it. Raises
    `ConfigurationError` with all that is wrong.
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
            problems += self._contradictions()
        if problems:
            raise ConfigurationError(problems)

    def __getitem__(self, name: str) -> Any:
        """A setting's value: of a list a tuple, of what nobody has chosen None."""
        return self._values[name]

    @property
    def settings(self) -> Settings:
        """What the streams and their doors are told."""
        chosen = {row.field: self[row.name] for row in TABLE if row.field is not None}
        url = self["public-url"]
        return Settings(
            **chosen,
            private=self["cache"] == "private",
            public_url=None if url is None else f"{url}/{self['root'].decode('ascii')}",
        )

    def source(self, name: str) -> Source | None:
        """Who has decided a setting; None is nobody, so that its default holds."""
        return next((source for source in self._sources if name in source.given), None)

    def texts(self, name: str) -> tuple[str, ...]:
        """A setting as it was written, a list in its parts; empty where there is nothing."""
        source = self.source(name)
        return SETTINGS[name].defaults if source is None else source.given[name]

    def origin(self, name: str) -> str:
        """Where a setting was said."""
        source = self.source(name)
        return "default" if source is None else source.origin(name)

    def overridden_by(self, name: str) -> str | None:
        """The setting that stands in for this one, if any does."""
        if name in ("port", "interface"):
            return "listen" if self["listen"] else None
        if name == "listen" and self.texts(name) and not self[name]:
            return "port" if self.source("port") is not None else "interface"
        return None

    def error(self, name: str, trouble: str, text: str | None = None) -> ConfigurationError:
        """An error about a setting, to be raised by whoever finds that it cannot be used.

        ``trouble`` goes on where the setting's name has been said; ``text`` is the one of a list
        that is meant.
        """
        source = self.source(name)
        subject = name if source is None else source.label(name)
        if text is not None and not SETTINGS[name].secret:
            subject += f" {SETTINGS[name].printable(text)}:"
        return ConfigurationError([f"{subject} {trouble}"])

    def _value(self, setting: Setting) -> Any:
        values = []
        for text in self.texts(setting.name):
            try:
                values.append(setting.parse(text))
            except InvalidValue as bad:
                shown = "" if setting.secret else f", not {setting.printable(text)!r}"
                raise self.error(setting.name, f"{bad}{shown}") from None
        if setting.kind == "list":
            return tuple(values)
        return values[0] if values else None

    def _contradictions(self) -> list[str]:
        """What cannot be together; and of what stands in for another, the nearer one stays."""
        problems: list[str] = []
        listen = self.source("listen")
        if listen is not None and self["listen"]:
            for name in ("port", "interface"):
                other = self.source(name)
                if other is listen:
                    problems += self.error(
                        "listen", f"stands in for {name}: give one only"
                    ).problems
                elif other is not None and self._rank(other) < self._rank(listen):
                    self._values["listen"] = ()
        if self["max-stored"] is not None and self["data-dir"] is None:
            problems += self.error(
                "max-stored", "bounds what is in data-dir: give that too"
            ).problems
        together = self["max-body-memory"]
        if together is not None and together < self["max-body"]:
            problems += self.error("max-body-memory", "is less than max-body").problems
        return problems

    def _rank(self, source: Source) -> int:
        return self._sources.index(source)


def load_configuration(
    given: Mapping[str, tuple[str, ...]], environment: Mapping[str, str], file: str | None
) -> Configuration:
    """The settings of a server that is run.

    ``given`` are the texts of options; ``file`` is the one of ``--config``, and None leaves it to
    the environment to name one. Raises `ConfigurationError`.
    """
    path = file or environment.get(CONFIG_VARIABLE)
    sources: list[Source] = [CommandLine(given), Environment(environment)]
    if path:
        sources.append(File(path))
    return Configuration(sources)
