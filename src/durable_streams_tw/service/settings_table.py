"""The one table of what can be chosen.

A row here is an option of ``twistd durable-streams`` and of ``durable-streams-server run``, a
variable of the environment, a key of the configuration file, and a paragraph of the reference
page. All are read as text by the same parser, so the same text means the same everywhere.

To add a setting, add a row. ``configuration["its-name"]`` is its value; with ``field`` it also
becomes that field of `http.settings.Settings`.
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

#: Stands for what is not printed.
REDACTED: Final = parsers.REDACTED

#: What the variables of the environment begin with.
PREFIX: Final = "DURABLE_STREAMS_"


class Setting(Struct, frozen=True, kw_only=True):
    """Something that whoever runs the server may choose.

    ``meaning`` is half a sentence for ``--help``; ``more`` are sentences, in Markdown, that only
    the reference page has. ``default`` is a text as somebody would write it, None is nothing at
    all. A ``list`` may be given several times, and its default is split at spaces. ``parse``
    reads one text and raises `units.InvalidValue`.

    ``secret`` keeps the value out of everything that is printed; ``shown`` takes out of a text
    what may be secret in it. ``dev`` is what the ``dev``
    command sets; ``in_dev`` says whether that command has the option.
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
        """Its variable in the environment."""
        return PREFIX + self.name.upper().replace("-", "_")

    def printable(self, text: str) -> str:
        """A text of it, without anything secret."""
        if self.secret:
            return REDACTED
        return text if self.redact is None else self.redact(text)

    @property
    def defaults(self) -> tuple[str, ...]:
        """The texts that stand for it when nobody says anything."""
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


_LISTENING = "Where it listens"
_KEEPING = "What it keeps"
_READING = "Readers"
_BOUNDS = "Bounds"
_BROWSERS = "Browsers, caches, proxies"
_CLIENTS = "Who may do what"
_OPERATORS = "Operators"
_WEBHOOKS = "Webhooks"

TABLE: Final[tuple[Setting, ...]] = (
    Setting(
        name="port",
        group=_LISTENING,
        meaning="TCP port to listen on",
        more="0 lets the system choose one; the log says which.",
        parse=parsers.port,
        default=str(DEFAULT_PORT),
        metavar="N",
        short="p",
    ),
    Setting(
        name="interface",
        group=_LISTENING,
        meaning="address to listen on with port (without it: all IPv4 and IPv6 addresses)",
        parse=parsers.interface,
        metavar="ADDRESS",
        short="i",
        dev="127.0.0.1",
        in_dev=False,
    ),
    Setting(
        name="listen",
        group=_LISTENING,
        meaning="Twisted endpoint to listen on in place of port and interface; repeatable",
        more=(
            "Any [endpoint](https://docs.twisted.org/en/stable/core/howto/endpoints.html), e.g. "
            "`tcp:4437:interface=127.0.0.1`, `unix:/run/streams.sock` or "
            "`ssl:443:privateKey=key.pem:certKey=cert.pem`. Without a `backlog=` of its own it has "
            "room for 4,096 clients that come at once, or what the system allows."
        ),
        parse=parsers.endpoint,
        kind="list",
        metavar="ENDPOINT",
        in_dev=False,
    ),
    Setting(
        name="root",
        group=_LISTENING,
        meaning="path under which streams live",
        more="Subscriptions are at `__ds/` below it: see [subscriptions](subscriptions.md).",
        parse=parsers.root,
        default="/v1/stream/",
        metavar="PATH",
    ),
    _flag(
        "fast-channel",
        _LISTENING,
        "answer HTTP/1.1 on a channel of our own; without it twisted.web does, slower",
        default="true",
    ),
    Setting(
        name="data-dir",
        group=_KEEPING,
        meaning="directory that keeps the streams (without it: memory, nothing is kept)",
        more=(
            "It is made if it is missing. A relative path starts at the directory that the "
            "server is started in, also when it stands in a file."
        ),
        parse=parsers.directory,
        metavar="DIR",
        short="d",
        directory=True,
        in_dev=False,
    ),
    Setting(
        name="max-stored",
        group=_KEEPING,
        meaning="how much streams may take in data-dir (without it: what the disk has)",
        more="Beyond it, what would grow is answered 507.",
        parse=parsers.size,
        metavar="SIZE",
        field="max_stored",
        in_dev=False,
    ),
    Setting(
        name="max-producers",
        group=_KEEPING,
        meaning="how many idempotent producers a stream remembers; 0: all",
        more=(
            "Those that appended last are remembered: at least so many of them, at most twice as "
            "many. One that is forgotten is treated as new: it has to begin with sequence 0 again, "
            "and older epochs of it are not fenced any more."
        ),
        parse=parsers.count,
        default=str(limits.MAX_PRODUCERS),
        metavar="N",
        field="max_producers",
    ),
    Setting(
        name="long-poll-timeout",
        group=_READING,
        meaning="how long a long-poll waits",
        parse=parsers.seconds,
        default="30s",
        metavar="TIME",
        field="long_poll_timeout",
    ),
    Setting(
        name="sse-reconnect-interval",
        group=_READING,
        meaning="after how long at most an event stream is ended, to be resumed",
        more=(
            "Each connection lives for a random time between four fifths of it and the whole, so "
            "that readers that came together, after a restart say, do not come back together."
        ),
        parse=parsers.seconds,
        default="60s",
        metavar="TIME",
        field="sse_reconnect_interval",
    ),
    Setting(
        name="max-chunk",
        group=_READING,
        meaning="about how much one read returns (without it: everything up to the tail)",
        more=(
            "An answer is sent in pieces and held in memory one piece at a time, however long it "
            "is. With this setting a reader gets pages, and has to ask again until an answer "
            "carries Stream-Up-To-Date; some clients take only the first page."
        ),
        parse=parsers.size,
        metavar="SIZE",
        field="max_chunk",
    ),
    Setting(
        name="max-body",
        group=_BOUNDS,
        meaning="the largest request body",
        more="A larger one is answered 413.",
        parse=parsers.size,
        default="64MiB",
        metavar="SIZE",
        field="max_body",
    ),
    Setting(
        name="max-body-memory",
        group=_BOUNDS,
        meaning="how much the bodies of all requests may take together (without it: 256MiB, or "
        "max-body where that is more)",
        more=(
            "A body counts from its first byte until its request is answered. Where they take "
            "more, the largest that is still arriving is answered 503 with `Retry-After`. At least "
            "`max-body`. See [sizing](how-to/sizing.md#memory)."
        ),
        parse=parsers.size,
        metavar="SIZE",
        field="max_body_memory",
    ),
    Setting(
        name="max-unread-memory",
        group=_BOUNDS,
        meaning="how much answers that clients do not read may take together",
        more=(
            "Beyond it connections are cut, those that hold most first; their clients can resume. "
            "It counts what clients of the `fast-channel` leave unread."
        ),
        parse=parsers.size,
        default="256MiB",
        metavar="SIZE",
        field="max_unread_memory",
    ),
    Setting(
        name="request-header-timeout",
        group=_BOUNDS,
        meaning="how long the head of a request may take",
        parse=parsers.seconds,
        default="10s",
        metavar="TIME",
        field="head_timeout",
    ),
    Setting(
        name="request-body-timeout",
        group=_BOUNDS,
        meaning="how long a request body may pause",
        more=(
            "Longer pauses are answered 408, and nothing is appended. However slow, a body that "
            "does not pause for so long is taken."
        ),
        parse=parsers.seconds,
        default="120s",
        metavar="TIME",
        field="body_timeout",
    ),
    Setting(
        name="idle-timeout",
        group=_BOUNDS,
        meaning="how long a connection is kept between two requests",
        parse=parsers.seconds,
        default="60s",
        metavar="TIME",
        field="idle_timeout",
    ),
    Setting(
        name="max-connections",
        group=_BOUNDS,
        meaning="how many connections there may be; 0: any number",
        parse=parsers.count,
        default=str(MAX_CONNECTIONS),
        metavar="N",
        field="max_connections",
    ),
    Setting(
        name="max-connections-per-address",
        group=_BOUNDS,
        meaning="how many of them one address may have; 0: any number",
        parse=parsers.count,
        default="0",
        metavar="N",
        field="max_connections_per_address",
    ),
    Setting(
        name="cors-origin",
        group=_BROWSERS,
        meaning="origin whose pages may use the server, * for all, local for those of this "
        "machine; repeatable",
        more=(
            "Pages of others can read no answer, and what they ask to be changed is answered 403."
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
        meaning="request header field that pages may send beside those of the protocol; repeatable",
        more=(
            "For fields that a proxy or an authentication layer before the server reads, such as "
            "`X-Request-Id`. Always allowed are the fields of the protocol, `Authorization`, "
            "`traceparent` and `tracestate`."
        ),
        parse=parsers.field_name,
        kind="list",
        metavar="NAME",
        field="cors_headers",
    ),
    Setting(
        name="cache",
        group=_BROWSERS,
        meaning="whether shared caches may keep what is read: public or private",
        parse=parsers.choice("public", "private"),
        choices=("public", "private"),
        default="public",
        metavar="WORD",
    ),
    _flag(
        "trust-proxy",
        _BROWSERS,
        "believe X-Forwarded-Proto, X-Forwarded-Host and X-Forwarded-For",
        more="Any client can send these: only for a server behind a proxy that sets them.",
        field="trust_proxy",
        in_dev=False,
    ),
    Setting(
        name="auth",
        group=_CLIENTS,
        meaning="who knows the clients' tokens: file:PATH or jwt:...; repeatable (without it: "
        "everybody may do everything)",
        more=(
            "`file:tokens.toml`, or "
            "`jwt:issuer=https://id.example,audience=streams,jwks=https://id.example/jwks.json`. "
            "See [who may do what](auth.md)."
        ),
        parse=parsers.auth,
        redact=parsers.redact_auth,
        kind="list",
        metavar="KIND:ARGUMENT",
        in_dev=False,
    ),
    Setting(
        name="auth-cookie",
        group=_CLIENTS,
        meaning="cookie that may hold a client's token, for EventSource",
        more=(
            "Browsers send it along with the requests of any page; so what changes something is "
            "then refused for pages of other origins than the server's own and those that "
            "`cors-origin` names one by one."
        ),
        parse=parsers.cookie,
        metavar="NAME",
        field="auth_cookie",
        in_dev=False,
    ),
    Setting(
        name="max-rate",
        group=_CLIENTS,
        meaning="how many requests each client may make, such as 100/s; 0: any number",
        more=(
            "As many may come at once. What is beyond it is answered 429 with `Retry-After`. A "
            "client is whoever its token says, and without one its address (of IPv6 the /64)."
        ),
        parse=parsers.rate,
        default="0",
        metavar="RATE",
        field="rate",
    ),
    Setting(
        name="allowed-host",
        group=_CLIENTS,
        meaning="name by which the server may be called, or local for those of this machine; "
        "repeatable (without it: any)",
        more=(
            "A request for another is answered 403. It keeps out pages that have their own name "
            "lead to this server (DNS rebinding)."
        ),
        parse=parsers.host,
        kind="list",
        metavar="NAME",
        field="allowed_hosts",
        dev="local",
    ),
    Setting(
        name="log-format",
        group=_OPERATORS,
        meaning="what a line of the log is: text or json",
        more=(
            "In [JSON](observability.md#logs) each line is one flat object. Under twistd it goes "
            "to twistd's `--logfile`, which is then not rotated by twistd."
        ),
        parse=parsers.choice("text", "json"),
        choices=("text", "json"),
        default="text",
        metavar="WORD",
    ),
    _flag(
        "metrics",
        _OPERATORS,
        "count what is done, for Prometheus, at /-/metrics",
        more="Numbers only, no names: see [observability](observability.md).",
        default="true",
    ),
    _flag(
        "tracing",
        _OPERATORS,
        "give a span for each request to an OpenTelemetry collector",
        more=(
            "Needs the extra `tracing`; `OTEL_*` variables say where the collector is: see "
            "[observability](observability.md#traces)."
        ),
    ),
    _flag(
        "listing",
        _OPERATORS,
        "list the streams at /-/streams",
        more="Whoever may ask, which without `auth` is everybody, learns the names of all streams.",
        dev="true",
    ),
    _flag(
        "console",
        _OPERATORS,
        "serve a console for browsers at /-/console, and the listing with it",
        more="See [the console](console.md).",
        dev="true",
    ),
    Setting(
        name="public-url",
        group=_WEBHOOKS,
        meaning="where others reach this server: webhooks call back there (without it: where it "
        "listens)",
        more="Scheme, host, and what a proxy has before `root`.",
        parse=parsers.public_url,
        metavar="URL",
    ),
    _flag(
        "allow-local-webhooks",
        _WEBHOOKS,
        "let webhooks lead to this machine, without TLS too",
        more=(
            "It is on by itself while the server listens on the loopback only, without "
            "`public-url` and `trust-proxy`."
        ),
        field="allow_local_webhooks",
    ),
    _flag(
        "rotate-webhook-key",
        _WEBHOOKS,
        "make a new key for webhook signatures at this start",
        more="It takes over after ten minutes.",
        field="rotate_webhook_key",
        in_dev=False,
    ),
)

SETTINGS: Final = {setting.name: setting for setting in TABLE}
