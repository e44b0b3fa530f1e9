"""The options of ``twistd durable-streams``."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.python import usage

from durable_streams_tw.protocol import limits
from durable_streams_tw.server.settings import Settings
from durable_streams_tw.service import units

#: PROTOCOL.md §13.1.
DEFAULT_PORT = 4437


class Options(usage.Options):
    """What can be chosen on the command line.

    ``settings`` is what came of most of it, ``endpoints`` are where to listen.
    """

    synopsis = "[options]"
    longdesc = "Serves durable streams over HTTP: see README.md."

    optParameters: ClassVar[list[list[Any]]] = [
        ["port", "p", None, f"TCP port to listen on (default: {DEFAULT_PORT})", units.port],
        ["interface", "i", "", "address to listen on with --port (default: every one)"],
        ["data-dir", "d", None, "directory that keeps the streams (default: memory, nothing kept)"],
        ["root", None, "/v1/stream/", "path under which streams live"],
        ["long-poll-timeout", None, "30s", "how long a long-poll waits"],
        [
            "sse-reconnect-interval",
            None,
            "60s",
            "after how long an event stream is ended, to be resumed",
        ],
        ["max-body", None, "64MiB", "the largest request body"],
        ["max-chunk", None, "1MiB", "about how much one read returns"],
        ["max-stored", None, None, "how much streams may take in --data-dir (default: the disk)"],
        ["request-header-timeout", None, "10s", "how long the head of a request may take"],
        ["idle-timeout", None, "60s", "how long a connection is kept between two requests"],
        [
            "max-connections",
            None,
            f"{limits.MAX_CONNECTIONS}",
            "how many connections there may be; 0: any number",
        ],
        [
            "max-connections-per-address",
            None,
            "0",
            "how many of them one address may have; 0: any number",
        ],
        ["cache", None, "public", "whether shared caches may keep what is read: public or private"],
        ["public-url", None, None, "where others reach this server: webhooks call back there"],
    ]
    optFlags: ClassVar[list[list[Any]]] = [
        ["no-fast-channel", None, "leave HTTP/1.1 to twisted.web too: slower, and well known"],
        ["trust-proxy", None, "believe X-Forwarded-Proto and X-Forwarded-Host"],
        ["allow-local-webhooks", None, "let webhooks lead to this machine, without TLS too"],
        ["rotate-webhook-key", None, "make a new key for webhook signatures at this start"],
    ]
    compData = usage.Completions(
        optActions={
            "data-dir": usage.CompleteDirs(),
            "cache": usage.CompleteList(["public", "private"]),
        }
    )

    def __init__(self) -> None:
        usage.Options.__init__(self)
        self["listen"] = []
        self["cors-origin"] = []

    def opt_listen(self, endpoint: str) -> None:
        """Twisted endpoint to listen on instead of --port, such as
        ssl:443:privateKey=key.pem:certKey=cert.pem; can be given several times.
        """
        self["listen"].append(endpoint)

    def opt_cors_origin(self, origin: str) -> None:
        """Origin whose pages may use the server (default: * for all); can be given several
        times.
        """
        self["cors-origin"].append(units.origin(origin))

    def postOptions(self) -> None:
        """Check what was given, as a whole. Raises `usage.UsageError`."""
        if self["listen"] and (self["port"] is not None or self["interface"]):
            raise usage.UsageError("--listen stands in for --port and --interface: give one only")
        if self["port"] is None:
            self["port"] = DEFAULT_PORT
        if self["data-dir"] is not None:
            if not self["data-dir"]:
                raise usage.UsageError("--data-dir names a directory, and may not be empty")
            # twistd may change its directory before the streams are opened.
            self["data-dir"] = os.path.abspath(self["data-dir"])
        elif self["max-stored"] is not None:
            raise usage.UsageError("--max-stored bounds what is in --data-dir: give that too")
        if self["cache"] not in ("public", "private"):
            raise usage.UsageError(f"--cache is public or private, not {self['cache']!r}")
        self["root"] = units.root(self["root"])
        self.endpoints = [_endpoint(text) for text in self["listen"] or [self._tcp()]]
        self.settings = Settings(
            max_body=units.size("max-body", self["max-body"]),
            max_chunk=units.size("max-chunk", self["max-chunk"]),
            max_stored=(
                None if self["max-stored"] is None else units.size("max-stored", self["max-stored"])
            ),
            long_poll_timeout=units.seconds("long-poll-timeout", self["long-poll-timeout"]),
            sse_reconnect_interval=units.seconds(
                "sse-reconnect-interval", self["sse-reconnect-interval"]
            ),
            cors_origins=tuple(self["cors-origin"]) or ("*",),
            private=self["cache"] == "private",
            trust_proxy=bool(self["trust-proxy"]),
            head_timeout=units.seconds("request-header-timeout", self["request-header-timeout"]),
            idle_timeout=units.seconds("idle-timeout", self["idle-timeout"]),
            max_connections=units.count("max-connections", self["max-connections"]),
            max_connections_per_address=units.count(
                "max-connections-per-address", self["max-connections-per-address"]
            ),
            public_url=units.public_url(self["public-url"], self["root"]),
            allow_local_webhooks=bool(self["allow-local-webhooks"]),
            rotate_webhook_key=bool(self["rotate-webhook-key"]),
        )

    def _tcp(self) -> str:
        interface = self["interface"].strip("[]").replace(":", r"\:")
        return f"tcp:{self['port']}" + (f":interface={interface}" if interface else "")


def _endpoint(description: str) -> IStreamServerEndpoint:
    # The one that twistd has installed, or installs now.
    from twisted.internet import reactor

    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, description)
    except Exception as error:
        raise usage.UsageError(f"--listen {description}: {error}") from error
    return endpoint
