"""Tests of the options of ``twistd durable-streams``."""

from __future__ import annotations

import errno
import os
import socket
import sys
from io import StringIO
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import ServerFactory
from twisted.python import usage
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.settings import Settings
from durable_streams_tw.service.limits import ACCEPT_BACKLOG
from durable_streams_tw.service.listening import DualStackEndpoint
from durable_streams_tw.service.make_service import Options
from durable_streams_tw.service.settings_table import SETTINGS


class AdoptingReactor:
    """Reactor that keeps the socket of the adopted port."""

    socket: socket.socket

    def adoptStreamPort(self, descriptor: int, family: Any, factory: object) -> None:
        """Duplicate the descriptor, as the real reactor does."""
        self.socket = socket.fromfd(descriptor, family, socket.SOCK_STREAM)


class OptionsTests(SynchronousTestCase):
    """Values, defaults and errors."""

    def parse(self, *arguments: str, **environment: str) -> Options:
        """Parse a command line."""
        self.patch(Options, "environment", environment)
        options = Options()
        options.parseOptions(list(arguments))
        return options

    def refused(self, *arguments: str) -> str:
        """Return the error message of a command line."""
        return str(self.assertRaises(UsageError, self.parse, *arguments))

    def port(self, options: Options) -> tuple[int, str]:
        """Return port and interface of the only endpoint; ``any`` for all addresses."""
        (endpoint,) = options.endpoints
        if isinstance(endpoint, DualStackEndpoint):
            return endpoint._port, "any"
        assert isinstance(endpoint, TCP4ServerEndpoint)
        return endpoint._port, endpoint._interface

    def test_defaults(self) -> None:
        """The default is a memory store on the protocol's port."""
        options = self.parse()
        self.assertEqual(options.configuration.settings, Settings())
        self.assertIsNone(options.configuration["data-dir"])
        self.assertEqual(options.configuration["root"], b"v1/stream/")
        self.assertEqual(self.port(options), (4437, "any"))

    def test_max_stored(self) -> None:
        """--max-stored requires --data-dir."""
        options = self.parse("--data-dir=streams", "--max-stored=10GiB")
        self.assertEqual(options.configuration.settings.max_stored, 10 * 1024**3)
        self.assertIn("data-dir", self.refused("--max-stored=10GiB"))
        self.assertIn("--max-stored", self.refused("--data-dir=streams", "--max-stored=much"))

    def test_all_options(self) -> None:
        """Each option sets its setting."""
        options = self.parse(
            "--port=8080",
            "--interface=127.0.0.1",
            "--root=/streams",
            "--long-poll-timeout=2m",
            "--sse-reconnect-interval=500ms",
            "--max-body=1MiB",
            "--max-chunk=64k",
            "--cors-origin=https://one.example",
            "--cors-origin=https://two.example",
            "--cors-header=X-Request-Id",
            "--cors-header=baggage",
            "--cache=private",
            "--trust-proxy",
            "--public-url=https://streams.example",
            "--allow-local-webhooks",
            "--rotate-webhook-key",
            "--request-header-timeout=5s",
            "--idle-timeout=5m",
            "--max-connections=500",
            "--max-connections-per-address=50",
        )
        self.assertEqual(
            options.configuration.settings,
            Settings(
                long_poll_timeout=120.0,
                sse_reconnect_interval=0.5,
                max_body=1024**2,
                max_chunk=64 * 1024,
                cors_origins=("https://one.example", "https://two.example"),
                cors_headers=("X-Request-Id", "baggage"),
                private=True,
                trust_proxy=True,
                public_url="https://streams.example/streams/",
                allow_local_webhooks=True,
                rotate_webhook_key=True,
                head_timeout=5.0,
                idle_timeout=300.0,
                max_connections=500,
                max_connections_per_address=50,
            ),
        )
        self.assertEqual(options.configuration["root"], b"streams/")
        self.assertEqual(self.port(options), (8080, "127.0.0.1"))

    def test_data_dir_is_absolute(self) -> None:
        """The data directory is made absolute: a daemon changes its working directory."""
        self.assertEqual(
            self.parse("--data-dir=x/y").configuration["data-dir"], os.path.abspath("x/y")
        )
        self.assertIn("--data-dir", self.refused("--data-dir="))

    def test_listen(self) -> None:
        """--listen takes endpoint descriptions and may be repeated."""
        options = self.parse("--listen=tcp:1:interface=127.0.0.1", "--listen", "unix:/tmp/x.sock")
        self.assertEqual(len(options.endpoints), 2)

    def test_listen_in_place_of_port(self) -> None:
        """--listen and --port exclude each other."""
        self.assertIn("--listen", self.refused("--listen=tcp:1", "--port=2"))
        self.assertIn("--listen", self.refused("--listen=tcp:1", "--interface=::1"))

    def test_bad_endpoints(self) -> None:
        """An invalid endpoint description is named in the error."""
        for text, reason in (
            ("nonsense", "expected an endpoint such as tcp:4437"),
            ("tcp:x", "expected an endpoint such as tcp:4437"),
            ("tcp", "expected an endpoint such as tcp:4437"),
            ("what:ever", "expected an endpoint such as tcp:4437"),
            ("tcp:70000", "70000 is not a port"),
            ("haproxy:tcp:port=70000", "70000 is not a port"),
            ("ssl:1:privateKey=/missing.pem", "/missing.pem: No such file"),
        ):
            self.assertIn(f"--listen '{text}': {reason}", self.refused(f"--listen={text}"))

    def test_ipv6(self) -> None:
        """IPv6 addresses need no escapes in --interface."""
        for text in ("::1", "[::1]"):
            (endpoint,) = self.parse(f"--interface={text}", "--port=1").endpoints
            self.assertEqual(vars(endpoint)["_interface"], "::1")

    def test_backlog(self) -> None:
        """Endpoints get a large backlog unless they set one."""
        for argument, backlog in (
            ("--listen=tcp:1:interface=::1".replace("::", r"\:\:"), ACCEPT_BACKLOG),
            ("--listen=tcp:1:backlog=7", 7),
        ):
            (endpoint,) = self.parse(argument).endpoints
            self.assertEqual(vars(endpoint)["_backlog"], backlog, argument)
        (unix,) = self.parse("--listen=unix:/tmp/x.sock:mode=600").endpoints
        self.assertEqual(vars(unix)["_backlog"], ACCEPT_BACKLOG)

    def test_invalid_values(self) -> None:
        """The error for an invalid value names the option."""
        for argument in (
            "--port=x",
            "--root=x",
            "--long-poll-timeout=soon",
            "--sse-reconnect-interval=0",
            "--max-body=much",
            "--max-chunk=-1",
            "--cors-origin=everybody",
            "--cors-header=no name",
            "--cors-header=*",
            "--cache=sometimes",
            "--request-header-timeout=never",
            "--idle-timeout=0",
            "--max-connections=many",
            "--max-connections-per-address=-1",
        ):
            self.assertIn(argument.partition("=")[0], self.refused(argument))
        self.assertIn("nonsense", self.refused("--nonsense"))
        self.refused("stray")

    def test_repeated_options(self) -> None:
        """The last value of a repeated option wins; values of a list are collected."""
        options = self.parse("--port=1", "--port=2")
        self.assertEqual(options.configuration["port"], 2)

    def test_flags_have_an_opposite(self) -> None:
        """A flag can be switched off with --no-; both together are an error."""
        self.assertIs(self.parse("--no-fast-channel").configuration["fast-channel"], False)
        self.assertIs(self.parse("--fast-channel").configuration["fast-channel"], True)
        self.assertIn("--no-trust-proxy", self.refused("--trust-proxy", "--no-trust-proxy"))

    def test_sources(self) -> None:
        """Options override the environment, which overrides the file."""
        path = self.mktemp()
        Path(path).write_text('max-body = "1k"\nmax-chunk = "1k"\nroot = "/file"\n')
        options = self.parse(
            f"--config={path}",
            "--max-body=3k",
            DURABLE_STREAMS_MAX_BODY="2k",
            DURABLE_STREAMS_MAX_CHUNK="2k",
        )
        configuration = options.configuration
        self.assertEqual(configuration["max-body"], 3072)
        self.assertEqual(configuration["max-chunk"], 2048)
        self.assertEqual(configuration["root"], b"file/")
        self.assertEqual(configuration["port"], 4437)

    def test_without_ipv6(self) -> None:
        """Without IPv6 the server listens on IPv4."""
        self.patch(socket, "has_dualstack_ipv6", lambda: False)
        self.assertEqual(self.port(self.parse()), (4437, ""))

    def test_dual_stack(self) -> None:
        """One port accepts IPv4 and IPv6 clients, with a large backlog."""
        endpoint: Any
        taken: Any
        (endpoint,) = self.parse("--port=0").endpoints
        reactor = AdoptingReactor()
        endpoint._reactor = reactor
        self.successResultOf(endpoint.listen(ServerFactory()))
        self.addCleanup(reactor.socket.close)
        port = reactor.socket.getsockname()[1]
        self.assertFalse(reactor.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), 10).close()
        (taken,) = self.parse(f"--port={port}").endpoints
        failure = self.failureResultOf(taken.listen(ServerFactory()), CannotListenError)
        self.assertEqual(failure.value.socketError.errno, errno.EADDRINUSE)

    def test_pid_file(self) -> None:
        """In the foreground a PID file is written only with --pidfile."""
        for asked, nodaemon, expected in (
            ([], True, ""),
            ([], False, "twistd.pid"),
            (["--pidfile=twistd.pid"], True, "twistd.pid"),
        ):
            options = Options()
            twistd = usage.Options()
            twistd.update({"nodaemon": nodaemon, "pidfile": "twistd.pid"})
            options.parent = twistd
            self.patch(sys, "argv", ["twistd", *asked])
            options.parseOptions([])
            self.assertEqual(twistd["pidfile"], expected)

    def test_usage_error_status(self) -> None:
        """A usage error exits with a failure status and without twistd's full help."""
        stderr = StringIO()
        self.patch(sys, "stderr", stderr)
        options = Options()
        options.parent = usage.Options()
        done = self.assertRaises(SystemExit, options.parseOptions, ["--max-body=much"])
        self.assertEqual(done.code, 1)
        self.assertEqual(
            stderr.getvalue(),
            "durable-streams: --max-body: expected a size such as 65536, 512k or 64MiB, "
            "got 'much'\n",
        )

    def test_help(self) -> None:
        """The help describes each setting with its default."""
        text = " ".join(str(Options()).split())
        for setting in SETTINGS.values():
            self.assertIn(f"--{setting.name}", text)
            if setting.kind == "flag":
                self.assertIn(f"--no-{setting.name}", text)
        self.assertIn("maximum wait of a long-poll (default: 30s)", text)
