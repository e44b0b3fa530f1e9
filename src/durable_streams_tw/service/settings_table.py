"""Table of settings: options, environment variables, file keys and the reference page.

Each row is an option of ``twistd durable-streams`` and of ``durable-streams-server run``, an
environment variable, a key of the configuration file, and an entry of docs/configuration.md. All
sources give text to the same parser.

To add a setting, add a row. ``configuration["its-name"]`` is its value; a row with ``field`` also
sets that field of `http.settings.Settings`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

from msgspec import Struct

from durable_streams_tw.http.limits import MAX_CONNECTIONS
from durable_streams_tw.service import value_parsers as parsers
from durable_streams_tw.storage import limits

#: PROTOCOL.md §13.1.
DEFAULT_PORT: Final = 4437

#: Text printed in place of a secret.
REDACTED: Final = parsers.REDACTED

#: Prefix of the environment variables.
PREFIX: Final = "DURABLE_STREAMS_"


class Setting(Struct, frozen=True, kw_only=True):
    """Setting that an operator may change.

    ``meaning`` is a phrase for ``--help``; ``more`` is Markdown that only the reference page
    has. ``default`` is text, None for no value. A ``list`` may be given several times, and its
    default is split at spaces. ``parse`` reads one text and raises `InvalidValue`.

    ``secret`` keeps the value out of all output; ``redact`` removes the secret parts of a value.
    ``dev`` is the value that the ``dev`` command sets; ``in_dev`` says whether that command has
    the option.
    """

    name: str
    group: str
    meaning: str
    parse: Callable[[str], Any]
    more: str = ""
    kind: Literal["value", "flag", "list"] = "value"
    default: str | None = None
    metavar: str = ""
    short: str | None = None
    choices: tuple[str, ...] = ()
    directory: bool = False
    field: str | None = None
    secret: bool = False
    redact: Callable[[str], str] | None = None
    dev: str | None = None
    in_dev: bool = True

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return PREFIX + self.name.upper().replace("-", "_")

    def printable(self, text: str) -> str:
        """Return a value of this setting with its secrets redacted."""
        if self.secret:
            return REDACTED
        return text if self.redact is None else self.redact(text)

    @property
    def defaults(self) -> tuple[str, ...]:
        """Texts of the default, empty if there is none."""
        if self.default is None:
            return ()
        return tuple(self.default.split()) if self.kind == "list" else (self.default,)


def _flag(name: str, group: str, meaning: str, **more: Any) -> Setting:
    return Setting(
        name=name,
        group=group,
        meaning=meaning,
        parse=parsers.flag,
        kind="flag",
        **{"default": "false", **more},
    )


_LISTENING = "Listening"
_STORAGE = "Storage"
_READING = "Reading"
_LIMITS = "Limits and timeouts"
_BROWSERS = "Browsers, caches and proxies"
_ACCESS = "Access control"
_OPERATIONS = "Operations"
_WEBHOOKS = "Webhooks"

TABLE: Final[tuple[Setting, ...]] = (
    Setting(
        name="port",
        group=_LISTENING,
        meaning="TCP port to listen on",
        more="With 0 the operating system chooses a free port, which the log names.",
        parse=parsers.port,
        default=str(DEFAULT_PORT),
        metavar="N",
        short="p",
    ),
    Setting(
        name="interface",
        group=_LISTENING,
        meaning="address to listen on (default: all IPv4 and IPv6 addresses)",
        parse=parsers.interface,
        metavar="ADDRESS",
        short="i",
        dev="127.0.0.1",
        in_dev=False,
    ),
    Setting(
        name="listen",
        group=_LISTENING,
        meaning="Twisted endpoint to listen on, instead of port and interface; repeatable",
        more=(
            "Any [endpoint](https://docs.twisted.org/en/stable/core/howto/endpoints.html), e.g. "
            "`tcp:4437:interface=127.0.0.1`, `unix:/run/streams.sock` or "
            "`ssl:443:privateKey=key.pem:certKey=cert.pem`. The default `backlog=` is 4,096, or "
            "the limit of the operating system if that is lower."
        ),
        parse=parsers.endpoint,
        kind="list",
        metavar="ENDPOINT",
        in_dev=False,
    ),
    Setting(
        name="root",
        group=_LISTENING,
        meaning="URL path prefix of the streams",
        more="Subscriptions are below it at `__ds/`: see [subscriptions](subscriptions.md).",
        parse=parsers.root,
        default="/v1/stream/",
        metavar="PATH",
    ),
    _flag(
        "fast-channel",
        _LISTENING,
        "serve HTTP/1.1 with the built-in engine; off: with twisted.web, which is slower",
        default="true",
    ),
    Setting(
        name="data-dir",
        group=_STORAGE,
        meaning="directory in which streams are stored (default: memory only, lost at exit)",
        more=(
            "Created if it does not exist. A relative path is relative to the working directory of "
            "the server, also in a configuration file."
        ),
        parse=parsers.directory,
        metavar="DIR",
        short="d",
        directory=True,
        in_dev=False,
    ),
    Setting(
        name="max-stored",
        group=_STORAGE,
        meaning="maximum size of all streams in data-dir (default: limited by the disk)",
        more="Writes beyond it are refused with 507.",
        parse=parsers.size,
        metavar="SIZE",
        field="max_stored",
        in_dev=False,
    ),
    Setting(
        name="max-producers",
        group=_STORAGE,
        meaning="idempotent producers remembered per stream; 0: no limit",
        more=(
            "A stream remembers at least this many of the producers that appended last, and at "
            "most twice as many. A forgotten producer is treated as new: it must start at "
            "sequence 0, and its older epochs are no longer fenced."
        ),
        parse=parsers.count,
        default=str(limits.MAX_PRODUCERS),
        metavar="N",
        field="max_producers",
    ),
    Setting(
        name="long-poll-timeout",
        group=_READING,
        meaning="maximum wait of a long-poll",
        parse=parsers.seconds,
        default="30s",
        metavar="TIME",
        field="long_poll_timeout",
    ),
    Setting(
        name="sse-reconnect-interval",
        group=_READING,
        meaning="maximum lifetime of an SSE connection, after which the client reconnects",
        more=(
            "Each connection ends after a random time between 80 % and 100 % of it, so that "
            "clients that connected together, for example after a restart, do not reconnect "
            "together."
        ),
        parse=parsers.seconds,
        default="60s",
        metavar="TIME",
        field="sse_reconnect_interval",
    ),
    Setting(
        name="max-chunk",
        group=_READING,
        meaning="approximate size of one read response (default: everything up to the tail)",
        more=(
            "A response is sent in pieces, of which one at a time is in memory, so its size needs "
            "no limit. With this setting a client must read on until a response has the header "
            "`Stream-Up-To-Date`; some clients read only the first response."
        ),
        parse=parsers.size,
        metavar="SIZE",
        field="max_chunk",
    ),
    Setting(
        name="max-body",
        group=_LIMITS,
        meaning="maximum size of a request body",
        more="Larger requests are refused with 413.",
        parse=parsers.size,
        default="64MiB",
        metavar="SIZE",
        field="max_body",
    ),
    Setting(
        name="max-body-memory",
        group=_LIMITS,
        meaning="maximum memory for the bodies of all requests (default: 256MiB, or max-body if "
        "that is more)",
        more=(
            "A body counts from its first byte until the response. Beyond the limit, the largest "
            "upload in progress is refused with 503 and `Retry-After`. Must be at least "
            "`max-body`. See [sizing](how-to/sizing.md#memory)."
        ),
        parse=parsers.size,
        metavar="SIZE",
        field="max_body_memory",
    ),
    Setting(
        name="max-unread-memory",
        group=_LIMITS,
        meaning="maximum memory for responses that clients have not read yet",
        more=(
            "Beyond it the connections with the most unread bytes are closed; their clients can "
            "resume. Counts connections of the built-in HTTP/1.1 engine (`fast-channel`)."
        ),
        parse=parsers.size,
        default="256MiB",
        metavar="SIZE",
        field="max_unread_memory",
    ),
    Setting(
        name="request-header-timeout",
        group=_LIMITS,
        meaning="maximum time to receive the head of a request",
        parse=parsers.seconds,
        default="10s",
        metavar="TIME",
        field="head_timeout",
    ),
    Setting(
        name="request-body-timeout",
        group=_LIMITS,
        meaning="maximum pause within a request body",
        more=(
            "After a longer pause the request is refused with 408, and nothing is appended. A slow "
            "body without such a pause is accepted."
        ),
        parse=parsers.seconds,
        default="120s",
        metavar="TIME",
        field="body_timeout",
    ),
    Setting(
        name="idle-timeout",
        group=_LIMITS,
        meaning="how long an idle connection is kept open",
        parse=parsers.seconds,
        default="60s",
        metavar="TIME",
        field="idle_timeout",
    ),
    Setting(
        name="max-connections",
        group=_LIMITS,
        meaning="maximum number of connections; 0: no limit",
        parse=parsers.count,
        default=str(MAX_CONNECTIONS),
        metavar="N",
        field="max_connections",
    ),
    Setting(
        name="max-connections-per-address",
        group=_LIMITS,
        meaning="maximum number of connections per client address; 0: no limit",
        parse=parsers.count,
        default="0",
        metavar="N",
        field="max_connections_per_address",
    ),
    Setting(
        name="cors-origin",
        group=_BROWSERS,
        meaning="origin whose web pages may use the server, * for all, local for this machine; "
        "repeatable",
        more=(
            "Pages of other origins cannot read responses, and their writes are refused with 403."
        ),
        parse=parsers.origin,
        kind="list",
        default="*",
        metavar="ORIGIN",
        field="cors_origins",
        dev="local",
    ),
    Setting(
        name="cors-header",
        group=_BROWSERS,
        meaning="additional request header that web pages may send; repeatable",
        more=(
            "For headers that a proxy or an authentication layer in front of the server reads, "
            "such as `X-Request-Id`. The headers of the protocol, `Authorization`, `traceparent` "
            "and `tracestate` are always allowed."
        ),
        parse=parsers.field_name,
        kind="list",
        metavar="NAME",
        field="cors_headers",
    ),
    Setting(
        name="cache",
        group=_BROWSERS,
        meaning="whether shared caches may store read responses: public or private",
        parse=parsers.choice("public", "private"),
        choices=("public", "private"),
        default="public",
        metavar="WORD",
    ),
    _flag(
        "trust-proxy",
        _BROWSERS,
        "trust X-Forwarded-Proto, X-Forwarded-Host and X-Forwarded-For",
        more="Any client can send these headers: use it only behind a proxy that sets them.",
        field="trust_proxy",
        in_dev=False,
    ),
    Setting(
        name="auth",
        group=_ACCESS,
        meaning="how bearer tokens are verified: file:PATH or jwt:...; repeatable (default: no "
        "authentication)",
        more=(
            "`file:tokens.toml`, or "
            "`jwt:issuer=https://id.example,audience=streams,jwks=https://id.example/jwks.json`. "
            "See [authentication](auth.md)."
        ),
        parse=parsers.auth,
        redact=parsers.redact_auth,
        kind="list",
        metavar="KIND:ARGUMENT",
        in_dev=False,
    ),
    Setting(
        name="auth-cookie",
        group=_ACCESS,
        meaning="cookie that may carry the bearer token, for EventSource",
        more=(
            "Browsers send cookies with the requests of any page. Writes with a cookie are "
            "therefore refused unless the page has the server's own origin or one that "
            "`cors-origin` lists by name."
        ),
        parse=parsers.cookie,
        metavar="NAME",
        field="auth_cookie",
        in_dev=False,
    ),
    Setting(
        name="max-rate",
        group=_ACCESS,
        meaning="maximum request rate per client, such as 100/s; 0: no limit",
        more=(
            "Bursts of that many requests are allowed. Requests beyond it are refused with 429 and "
            "`Retry-After`. A client is the subject of its token, or without a token its address "
            "(for IPv6 the /64 network)."
        ),
        parse=parsers.rate,
        default="0",
        metavar="RATE",
        field="rate",
    ),
    Setting(
        name="allowed-host",
        group=_ACCESS,
        meaning="accepted Host name, or local for names of this machine; repeatable (default: any)",
        more=(
            "Requests for other hosts are refused with 403. This protects against DNS rebinding, "
            "where a web page lets its own name resolve to this server."
        ),
        parse=parsers.host,
        kind="list",
        metavar="NAME",
        field="allowed_hosts",
        dev="local",
    ),
    Setting(
        name="log-format",
        group=_OPERATIONS,
        meaning="format of the log: text or json",
        more=(
            "In [JSON](observability.md#logs) each line is one flat object. Under twistd the log "
            "goes to twistd's `--logfile`, which twistd then does not rotate."
        ),
        parse=parsers.choice("text", "json"),
        choices=("text", "json"),
        default="text",
        metavar="WORD",
    ),
    _flag(
        "metrics",
        _OPERATIONS,
        "serve Prometheus metrics at /-/metrics",
        more="Labels have no names of streams or clients: see [observability](observability.md).",
        default="true",
    ),
    _flag(
        "tracing",
        _OPERATIONS,
        "send a span for each request to an OpenTelemetry collector",
        more=(
            "Requires the extra `tracing`. `OTEL_*` variables configure the exporter: see "
            "[observability](observability.md#traces)."
        ),
    ),
    _flag(
        "listing",
        _OPERATIONS,
        "serve a list of all streams at /-/streams",
        more="Shows the names of all streams. Without `auth` every client can read it.",
        dev="true",
    ),
    _flag(
        "console",
        _OPERATIONS,
        "serve a web console at /-/console, and the listing",
        more="See [the console](console.md).",
        dev="true",
    ),
    Setting(
        name="public-url",
        group=_WEBHOOKS,
        meaning="external URL of this server, for callback URLs of webhooks (default: the "
        "listening address)",
        more="Scheme, host, and the path that a proxy adds before `root`.",
        parse=parsers.public_url,
        metavar="URL",
    ),
    _flag(
        "allow-local-webhooks",
        _WEBHOOKS,
        "allow webhook URLs on this machine, also without TLS",
        more=(
            "Enabled automatically if the server listens only on loopback addresses and neither "
            "`public-url` nor `trust-proxy` is set."
        ),
        field="allow_local_webhooks",
    ),
    _flag(
        "rotate-webhook-key",
        _WEBHOOKS,
        "create a new key for webhook signatures at this start",
        more="The new key signs after ten minutes; until then the old one does.",
        field="rotate_webhook_key",
        in_dev=False,
    ),
)

SETTINGS: Final = {setting.name: setting for setting in TABLE}
