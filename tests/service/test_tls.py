"""Tests of TLS with curl: HTTP/2, and a certificate replaced at run time."""

from __future__ import annotations

import json
import shutil
import signal
import ssl
import subprocess
from http.client import HTTPSConnection
from pathlib import Path
from unittest import SkipTest

from tests.service.black_box import PATIENCE, ROOT, Foreground
from tests.service.pem import cached_pem, endpoint
from tests.service.test_twistd import TwistdTestCase


class TlsTestCase(TwistdTestCase):
    """Test case with a certificate in its directory."""

    def setUp(self) -> None:
        super().setUp()
        cached_pem("first").write(self.directory)

    def serve(self) -> Foreground:
        """Start a server on a free port."""
        return Foreground(self.directory, "durable-streams", "--listen", endpoint(self.directory))


class CurlTests(TlsTestCase):
    """curl negotiates HTTP/2 by ALPN."""

    def setUp(self) -> None:
        super().setUp()
        if shutil.which("curl") is None:
            raise SkipTest("curl is not installed")
        version = subprocess.run(["curl", "--version"], capture_output=True, text=True)
        if "HTTP2" not in version.stdout:
            raise SkipTest("this curl speaks no HTTP/2")

    def curl(self, *arguments: str) -> tuple[str, str, bytes]:
        """Send a request with curl; return HTTP version, status and body."""
        always = ["--silent", "--show-error", "--cacert", "cert.pem", "--http2"]
        always += ["--write-out", "%{stderr}%{http_version} %{http_code}"]
        done = subprocess.run(
            ["curl", *always, *arguments],
            cwd=self.directory,
            capture_output=True,
            timeout=PATIENCE,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        version, status = done.stderr.decode().split()
        return version, status, done.stdout

    def test_http2(self) -> None:
        """curl creates, appends, reads and follows a stream over HTTP/2."""
        with self.serve() as server:
            url = f"https://localhost:{server.port}{ROOT}a"
            typed = ("--header", "Content-Type: text/plain")
            self.assertEqual(self.curl("--request", "PUT", url, *typed)[:2], ("2", "201"))
            posted = self.curl(url, "--data-binary", "x" * 100_000, *typed)
            self.assertEqual(posted[:2], ("2", "204"))
            self.assertEqual(self.curl(url), ("2", "200", b"x" * 100_000))
            closing = ("--header", "Stream-Closed: true", "--request", "POST")
            self.assertEqual(self.curl(url, *closing)[:2], ("2", "204"))
            version, status, events = self.curl("--no-buffer", f"{url}?offset=-1&live=sse")
            self.assertEqual((version, status), ("2", "200"))
            self.assertIn(b"event: control", events)
            self.assertIn(b'"streamClosed":true', events)
            plain = ("--http1.1", url)
            self.assertEqual(self.curl(*plain), ("1.1", "200", b"x" * 100_000))
            server.stop()
        self.assert_clean(server.log)


class ReloadTests(TlsTestCase):
    """SIGHUP."""

    def connect(self, port: int, folder: Path) -> HTTPSConnection:
        """Open a connection that trusts the certificate of a directory only."""
        context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
        return HTTPSConnection("localhost", port, timeout=PATIENCE, context=context)

    def test_reload(self) -> None:
        """After SIGHUP new connections get the new certificate, and a live read continues.

        An invalid certificate is refused in one log line.
        """
        first, second = self.directory / "first", self.directory / "second"
        for folder in (first, second):
            folder.mkdir()
            cached_pem(folder.name).write(folder)
        with self.serve() as server:
            old = self.connect(server.port, first)
            old.request("PUT", ROOT + "a", headers={"Content-Type": "application/json"})
            old.getresponse().read()
            old.request("GET", ROOT + "a?offset=-1&live=sse")
            events = old.getresponse()
            cached_pem("second").write(self.directory)
            server.signal(signal.SIGHUP)
            server.until("Reloaded the certificate of")
            new = self.connect(server.port, second)
            new.request("POST", ROOT + "a", b'{"to":"all"}', {"Content-Type": "application/json"})
            self.assertEqual(new.getresponse().status, 204)
            new.close()
            data = b""
            while not data.startswith(b"data:[{"):
                data = events.readline()
            self.assertEqual(json.loads(data.removeprefix(b"data:")), [{"to": "all"}])
            with self.assertRaises(ssl.SSLCertVerificationError):
                self.connect(server.port, first).request("GET", ROOT + "a")
            (self.directory / "cert.pem").write_text("no certificate")
            server.signal(signal.SIGHUP)
            server.until("the previous one stays in use")
            new = self.connect(server.port, second)
            new.request("GET", ROOT + "a")
            self.assertEqual(new.getresponse().status, 200)
            new.close()
            old.close()
            server.stop()
        self.assert_clean(server.log)
