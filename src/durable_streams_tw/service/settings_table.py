"""Table of settings: options, environment variables, file keys and the reference page.

Each row is an option of ``twistd durable-streams`` and of ``durable-streams-server run``, an
environment variable, a key of the configuration file, and an entry of docs/configuration.md. All
sources give text to the same parser.

To add a setting, add a row. ``configuration["its-name"]`` is its value.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, Literal

from msgspec import Struct

from durable_streams_tw.http.limits import MAX_CONNECTIONS
from durable_streams_tw.service import value_parsers as parsers
from durable_streams_tw.storage.limits import MAX_PRODUCERS

#: PROTOCOL.md §13.1.
DEFAULT_PORT: Final = 4437

#: Prefix of the environment variables.
PREFIX: Final = "DURABLE_STREAMS_"


class Setting(Struct, frozen=True):
    """Setting that an operator may change.

    ``meaning`` is a phrase for ``--help``. ``parse`` reads one text and raises `InvalidValue`.
    ``default`` is text, None for no value. A ``list`` may be given several times, and its default
    is split at spaces.

    The value becomes a field of `http.settings.Settings`: ``field``, by default the name of the
    setting. ``redact`` removes the secret parts of a value from all output. ``dev`` is the value
    that the ``dev`` command sets; ``in_dev`` says whether that command has the option.
    """

    name: str
    meaning: str
    parse: Callable[[str], Any]
    metavar: str = ""
    default: str | None = None
    kind: Literal["value", "flag", "list"] = "value"
    short: str | None = None
    choices: tuple[str, ...] = ()
    directory: bool = False
    field: str | None = None
    redact: Callable[[str], str] = str
    dev: str | None = None
    in_dev: bool = True

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return PREFIX + self.name.upper().replace("-", "_")

    @property
    def defaults(self) -> tuple[str, ...]:
        """Texts of the default, empty if there is none."""
        if self.default is None:
            return ()
        return tuple(self.default.split()) if self.kind == "list" else (self.default,)

    def help(self, default: str | None) -> str:
        """Return the help text with this default, instead of one that the meaning names."""
        if default is None:
            return self.meaning
        return f"{self.meaning.partition(' (default: ')[0]} (default: {default})"


def _choice(name: str, meaning: str, default: str, *words: str, dev: str | None = None) -> Setting:
    """Return a setting with one of these words as its value."""
    return Setting(name, meaning, parsers.choice(*words), "WORD", default, choices=words, dev=dev)


_flag = partial(Setting, parse=parsers.flag, default="false", kind="flag")
_size = partial(Setting, parse=parsers.size, metavar="SIZE")
_time = partial(Setting, parse=parsers.seconds, metavar="TIME")
_count = partial(Setting, parse=parsers.count, metavar="N")
_list = partial(Setting, kind="list")
_database = partial(Setting, in_dev=False)

#: Settings by group. A group is a section of ``--help`` and of the reference page.
GROUPS: Final[dict[str, tuple[Setting, ...]]] = {
    "Listening": (
        Setting("port", "TCP port to listen on", parsers.port, "N", str(DEFAULT_PORT), short="p"),
        Setting(
            "interface",
            "address to listen on (default: all IPv4 and IPv6 addresses)",
            parsers.interface,
            "ADDRESS",
            short="i",
            dev="127.0.0.1",
        ),
        _list(
            "listen",
            "Twisted endpoint to listen on, instead of port and interface; repeatable",
            parsers.endpoint,
            "ENDPOINT",
            in_dev=False,
        ),
        Setting("root", "URL path prefix of the streams", parsers.root, "PATH", "/v1/stream/"),
        Setting(
            "workers",
            "processes that serve HTTP, or auto: one less than there are cores",
            parsers.workers,
            "N",
            "1",
            in_dev=False,
        ),
        _flag(
            "fast-channel",
            "serve HTTP/1.1 with the built-in engine; off: with twisted.web, which is slower",
            default="true",
        ),
    ),
    "Storage": (
        Setting(
            "data-dir",
            "directory in which streams are stored (default: memory only, lost at exit)",
            parsers.directory,
            "DIR",
            short="d",
            directory=True,
        ),
        _size(
            "max-stored",
            "maximum size of all streams in data-dir (default: limited by the disk)",
        ),
        _database(
            "database",
            "PostgreSQL database in which streams are stored, instead of data-dir",
            parsers.database,
            "URL",
            redact=parsers.redact_database,
        ),
        _database(
            "database-schema",
            "schema of the tables, created if it does not exist",
            parsers.schema,
            "NAME",
            "durable_streams",
        ),
        _database(
            "database-listen",
            "URL of the server itself, if database leads to a pooler (default: database)",
            parsers.database,
            "URL",
            redact=parsers.redact_database,
        ),
        _database(
            "database-timeout",
            "time for which writes wait for an unavailable database",
            parsers.seconds,
            "TIME",
            "10s",
        ),
        _database(
            "node",
            "name of this server in the database and its logs (default: the host name)",
            parsers.node,
            "NAME",
        ),
        _flag(
            "unsafe-database",
            "accept a database with fsync=off, which loses acknowledged writes in a crash",
            in_dev=False,
        ),
        _count(
            "max-producers",
            "idempotent producers remembered per stream; 0: no limit",
            default=str(MAX_PRODUCERS),
        ),
    ),
    "Reading": (
        _time("long-poll-timeout", "maximum wait of a long-poll", default="30s"),
        _time(
            "sse-reconnect-interval",
            "maximum lifetime of an SSE connection, after which the client reconnects",
            default="60s",
        ),
        _size(
            "max-chunk",
            "approximate size of one read response (default: everything up to the tail)",
        ),
    ),
    "Limits and timeouts": (
        _size("max-body", "maximum size of a request body", default="64MiB"),
        _size(
            "max-body-memory",
            "maximum memory for the bodies of all requests (default: 256MiB, or max-body if "
            "that is more)",
        ),
        _size(
            "max-unread-memory",
            "maximum memory for responses that clients have not read yet",
            default="256MiB",
        ),
        _time(
            "request-header-timeout",
            "maximum time to receive the head of a request",
            default="10s",
            field="head_timeout",
        ),
        _time(
            "request-body-timeout",
            "maximum pause within a request body",
            default="120s",
            field="body_timeout",
        ),
        _time("idle-timeout", "how long an idle connection is kept open", default="60s"),
        _count(
            "max-connections",
            "maximum number of connections; 0: no limit",
            default=str(MAX_CONNECTIONS),
        ),
        _count(
            "max-connections-per-address",
            "maximum number of connections per client address; 0: no limit",
            default="0",
        ),
    ),
    "Browsers, caches and proxies": (
        _list(
            "cors-origin",
            "origin whose web pages may use the server, * for all, local for this machine; "
            "repeatable",
            parsers.origin,
            "ORIGIN",
            "*",
            field="cors_origins",
            dev="local",
        ),
        _list(
            "cors-header",
            "additional request header that web pages may send; repeatable",
            parsers.field_name,
            "NAME",
            field="cors_headers",
        ),
        _choice(
            "cache",
            "whether shared caches may store read responses: public or private",
            "public",
            "public",
            "private",
        ),
        _flag(
            "trust-proxy",
            "trust X-Forwarded-Proto, X-Forwarded-Host and X-Forwarded-For",
            in_dev=False,
        ),
    ),
    "Access control": (
        _list(
            "auth",
            "how bearer tokens are verified: file:PATH or jwt:...; repeatable (default: no "
            "authentication)",
            parsers.auth,
            "KIND:ARGUMENT",
            redact=parsers.redact_auth,
            in_dev=False,
        ),
        Setting(
            "auth-cookie",
            "cookie that may carry the bearer token, for EventSource",
            parsers.cookie,
            "NAME",
            in_dev=False,
        ),
        Setting(
            "max-rate",
            "maximum request rate per client, such as 100/s; 0: no limit",
            parsers.rate,
            "RATE",
            "0",
            field="rate",
        ),
        _list(
            "allowed-host",
            "accepted Host name, or local for names of this machine; repeatable (default: any)",
            parsers.host,
            "NAME",
            field="allowed_hosts",
            dev="local",
        ),
    ),
    "Operations": (
        _choice("log-format", "format of the log: text or json", "text", "text", "json"),
        _choice(
            "log-level",
            "lowest level of the events that are logged: debug, info, warn or error",
            "info",
            "debug",
            "info",
            "warn",
            "error",
            dev="warn",
        ),
        _flag("access-log", "log every request: client, method, path, status, size", dev="true"),
        _flag("metrics", "serve Prometheus metrics at /-/metrics", default="true"),
        _flag("tracing", "send a span for each request to an OpenTelemetry collector"),
        _flag(
            "listing",
            "serve streams and subscriptions below /-/, for ls, watch and sub ls",
            dev="true",
        ),
        _flag(
            "console", "serve a web console at /-/console, and what --listing serves", dev="true"
        ),
    ),
    "Webhooks": (
        Setting(
            "public-url",
            "external URL of this server, for callback URLs of webhooks (default: the "
            "listening address)",
            parsers.public_url,
            "URL",
        ),
        _flag("allow-local-webhooks", "allow webhook URLs on this machine, also without TLS"),
        Setting(
            "webhook-keys",
            "file with the keys of webhook signatures, from the command webhook-keys (default: in "
            "data-dir or database)",
            parsers.file,
            "FILE",
            in_dev=False,
        ),
        _flag(
            "rotate-webhook-key",
            "create a new key for webhook signatures at this start",
            in_dev=False,
        ),
    ),
}

SETTINGS: Final = {setting.name: setting for group in GROUPS.values() for setting in group}
