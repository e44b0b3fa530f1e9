"""Options of ``twistd durable-streams``, built from the table of settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from twisted.python import usage

from durable_streams_tw.service.configuration import Configuration, load_configuration
from durable_streams_tw.service.listening import endpoints
from durable_streams_tw.service.settings_table import TABLE, Setting
from durable_streams_tw.service.sources import ConfigurationError


def help_text(setting: Setting) -> str:
    """Return the help text of a setting, with its default."""
    if setting.default is None or setting.kind == "flag":
        return setting.meaning
    return f"{setting.meaning} (default: {setting.default})"


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
        *(
            [setting.name, setting.short, None, help_text(setting)]
            for setting in TABLE
            if setting.kind == "value"
        ),
    ]
    optFlags: ClassVar[list[list[Any]]] = [
        flag
        for setting in TABLE
        if setting.kind == "flag"
        for flag in (
            [setting.name, setting.short, setting.meaning],
            [f"no-{setting.name}", None, f"turn off --{setting.name}"],
        )
    ]
    compData = usage.Completions(
        optActions={
            "config": usage.CompleteFiles("*.toml"),
            **{row.name: usage.CompleteDirs() for row in TABLE if row.directory},
            **{row.name: usage.CompleteList(list(row.choices)) for row in TABLE if row.choices},
        },
        multiUse=[row.name for row in TABLE if row.kind == "list"],
        mutuallyExclusive=[(row.name, f"no-{row.name}") for row in TABLE if row.kind == "flag"],
    )

    def __init__(self) -> None:
        usage.Options.__init__(self)
        self._lists: dict[str, list[str]] = {}

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
            self.configuration = load_configuration(self._given(), self.environment, self["config"])
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

    def _given(self) -> dict[str, tuple[str, ...]]:
        given: dict[str, tuple[str, ...]] = {}
        for setting in TABLE:
            name = setting.name
            if setting.kind == "list":
                if name in self._lists:
                    given[name] = tuple(self._lists[name])
            elif setting.kind == "flag":
                if self[name] and self[f"no-{name}"]:
                    raise usage.UsageError(f"--{name} cannot be combined with --no-{name}")
                if self[name] or self[f"no-{name}"]:
                    given[name] = ("true" if self[name] else "false",)
            elif self[name] is not None:
                given[name] = (self[name],)
        return given


def _collector(setting: Setting) -> Callable[[Options, str], None]:
    def collect(self: Options, text: str) -> None:
        self._lists.setdefault(setting.name, []).append(text)

    collect.__doc__ = help_text(setting)
    return collect


# usage.Options collects a repeatable option through a method named opt_NAME.
for _setting in TABLE:
    if _setting.kind == "list":
        setattr(Options, "opt_" + _setting.name.replace("-", "_"), _collector(_setting))
