"""The options of ``twistd durable-streams``: the table of settings, as twistd wants it."""

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


def described(setting: Setting) -> str:
    """The help of a setting, with its default."""
    if setting.default is None or setting.kind == "flag":
        return setting.meaning
    return f"{setting.meaning} (default: {setting.default})"


class Options(usage.Options):
    """What can be chosen on the command line, over the environment and a file.

    ``configuration`` is what came of it all, ``endpoints`` are where to listen.
    """

    synopsis = "[options]"
    longdesc = (
        "Serves durable streams over HTTP. Every option is also a variable of the environment "
        "(--max-body: DURABLE_STREAMS_MAX_BODY) and a key of the file that --config names."
    )
    environment: ClassVar[Mapping[str, str]] = os.environ
    configuration: Configuration

    optParameters: ClassVar[list[list[Any]]] = [
        ["config", "c", None, "TOML file with settings"],
        *(
            [setting.name, setting.short, None, described(setting)]
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
            [f"no-{setting.name}", None, f"the opposite of --{setting.name}"],
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
        """Read the command line, and all that it stands before. Raises `usage.UsageError`.

        twistd would print all of its help for that, and report success; so below it, this is
        the end, with the sentence on stderr.
        """
        try:
            usage.Options.parseOptions(self, options)
        except usage.UsageError as error:
            if self.parent is None:
                raise
            sentences = str(error).splitlines()
            sys.stderr.write("".join(f"durable-streams: {line}\n" for line in sentences))
            sys.exit(1)

    def postOptions(self) -> None:
        """Bring all sources together. Raises `usage.UsageError`."""
        self._leave_pid_file_out()
        try:
            self.configuration = load_configuration(self._given(), self.environment, self["config"])
            self.endpoints = endpoints(self.configuration)
        except ConfigurationError as bad:
            raise usage.UsageError(str(bad)) from None

    def _leave_pid_file_out(self) -> None:
        """Write no PID file in the foreground, unless one is asked for.

        A killed process leaves its file, and in a container the next process often has the
        same number: twistd would refuse to start. The data directory has a lock of its own.
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
                    raise usage.UsageError(f"--{name} and --no-{name}: give one only")
                if self[name] or self[f"no-{name}"]:
                    given[name] = ("true" if self[name] else "false",)
            elif self[name] is not None:
                given[name] = (self[name],)
        return given


def _collector(setting: Setting) -> Callable[[Options, str], None]:
    def collect(self: Options, text: str) -> None:
        self._lists.setdefault(setting.name, []).append(text)

    collect.__doc__ = described(setting)
    return collect


# The form in which usage.Options takes what may be given several times.
for _setting in TABLE:
    if _setting.kind == "list":
        setattr(Options, "opt_" + _setting.name.replace("-", "_"), _collector(_setting))
