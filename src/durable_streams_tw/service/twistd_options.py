"""Options of ``twistd durable-streams``, built from the table of settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from twisted.python import usage

from durable_streams_tw.service.configuration import (
    Configuration,
    ConfigurationError,
    load_configuration,
)
from durable_streams_tw.service.listening import endpoints
from durable_streams_tw.service.settings_table import SETTINGS, Setting

_ROWS: Final = SETTINGS.values()
_VALUES: Final = [row for row in _ROWS if row.kind == "value"]
_FLAGS: Final = [row for row in _ROWS if row.kind == "flag"]
_LISTS: Final = [row for row in _ROWS if row.kind == "list"]


class Options(usage.Options):
    """Options of the twistd plugin.

    After parsing, ``configuration`` has the effective settings of all sources, and ``endpoints``
    the endpoints to listen on.
    """

    synopsis = "[options]"
    longdesc = (
        "Serves durable streams over HTTP. Each option is also an environment variable "
        "(--max-body: DURABLE_STREAMS_MAX_BODY) and a key (max-body) of the file that --config "
        "names. Options override environment variables, which override the file."
    )
    environment: ClassVar[Mapping[str, str]] = os.environ
    configuration: Configuration

    optParameters: ClassVar[list[list[Any]]] = [
        ["config", "c", None, "TOML file with settings (default: $DURABLE_STREAMS_CONFIG)"],
        *([row.name, row.short, None, row.help(row.default)] for row in _VALUES),
    ]
    optFlags: ClassVar[list[list[Any]]] = [
        *([row.name, row.short, row.meaning] for row in _FLAGS),
        *([f"no-{row.name}", None, f"turn off --{row.name}"] for row in _FLAGS),
    ]
    compData = usage.Completions(
        optActions={
            "config": usage.CompleteFiles("*.toml"),
            **{row.name: usage.CompleteDirs() for row in _ROWS if row.directory},
            **{row.name: usage.CompleteList(list(row.choices)) for row in _ROWS if row.choices},
        },
        multiUse=[row.name for row in _LISTS],
        mutuallyExclusive=[(row.name, f"no-{row.name}") for row in _FLAGS],
    )

    def parseOptions(self, options: Any = None) -> None:
        """Parse the command line, the environment and the file. Raises `usage.UsageError`.

        As a subcommand, print the error and exit with status 1 instead: twistd would print its
        whole help and exit with status 0.
        """
        try:
            usage.Options.parseOptions(self, options)
        except usage.UsageError as error:
            if self.parent is None:
                raise
            lines = str(error).splitlines()
            sys.stderr.write("".join(f"durable-streams: {line}\n" for line in lines))
            sys.exit(1)

    def postOptions(self) -> None:
        """Load the configuration from all sources. Raises `usage.UsageError`."""
        self._suppress_pid_file()
        try:
            self.configuration = load_configuration(
                self._values(), self.environment, self["config"]
            )
            self.endpoints = endpoints(self.configuration)
        except ConfigurationError as bad:
            raise usage.UsageError(str(bad)) from None

    def _suppress_pid_file(self) -> None:
        """Write no PID file in the foreground unless ``--pidfile`` is given.

        A killed process leaves its PID file, and in a container the next process often has the
        same PID: twistd would refuse to start. The data directory has its own lock.
        """
        twistd: Any = self.parent
        asked = any(argument.startswith("--pidfile") for argument in sys.argv)
        if twistd is not None and twistd.get("nodaemon") and not asked:
            twistd["pidfile"] = ""

    def _values(self) -> dict[str, Any]:
        """Return the value of each option, None if it is absent."""
        values = {row.name: self.get(row.name) for row in (*_VALUES, *_LISTS)}
        for row in _FLAGS:
            on, off = self[row.name], self[f"no-{row.name}"]
            if on and off:
                raise usage.UsageError(f"--{row.name} cannot be combined with --no-{row.name}")
            values[row.name] = bool(on) if on or off else None
        return values


def _collector(setting: Setting) -> Callable[[Options, str], None]:
    def collect(self: Options, text: str) -> None:
        self.setdefault(setting.name, []).append(text)

    collect.__doc__ = setting.help(setting.default)
    return collect


# usage.Options collects a repeatable option through a method named opt_NAME.
for _row in _LISTS:
    setattr(Options, "opt_" + _row.name.replace("-", "_"), _collector(_row))
