"""Proxy processes with the documented configurations and the test's addresses."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import ClassVar

from tests.ports import await_port, free_port
from tests.service.pem import cached_pem

PAGES = Path(__file__).parents[2] / "docs" / "how-to" / "proxies"
PATIENCE = 30.0
# Directories of daemons in Debian that are not on the PATH of ordinary users.
_SYSTEM = "/usr/local/sbin:/usr/sbin:/sbin"


def program(name: str) -> str | None:
    """Return the path of a program, or None."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SYSTEM}")


class Proxy:
    """Proxy process with TLS before a server's port, from `start` to `stop`."""

    #: Name of the program, and the page with its configuration.
    name: ClassVar[str]
    page: ClassVar[str]

    def __init__(self, directory: Path, behind: int) -> None:
        self.directory = directory
        cached_pem("localhost").write(directory)
        self.certificate = directory / "cert.pem"
        self.key = directory / "key.pem"
        self.behind = behind
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def changes(self) -> dict[str, str]:
        """Return replacements in the configuration, for the test's addresses and files."""
        raise NotImplementedError

    def command(self, configuration: str) -> list[str]:
        """Return the arguments of the program; write the files that they name."""
        raise NotImplementedError

    def configuration(self) -> str:
        """Return the documented configuration with the test's addresses and files."""
        text = (PAGES / self.page).read_text("utf-8")
        for documented, ours in {"127.0.0.1:4437": self.server, **self.changes()}.items():
            assert documented in text, f"{self.page} no longer has {documented}"
            text = text.replace(documented, ours)
        return text

    @property
    def server(self) -> str:
        """Return host and port of the server."""
        return f"127.0.0.1:{self.behind}"

    def start(self) -> None:
        """Start the proxy and wait until it accepts connections."""
        found = program(self.name)
        assert found is not None, f"{self.name} is not installed"
        log = (self.directory / "log").open("wb")
        with log:
            self._process = subprocess.Popen(
                [found, *self.command(self.configuration())],
                cwd=self.directory,
                env={
                    **os.environ,
                    "HOME": str(self.directory),
                    "XDG_DATA_HOME": "",
                    "XDG_CONFIG_HOME": "",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        await_port(self.port, self._process, lambda: self.log)

    def reload(self) -> None:
        """Let the proxy read its configuration and certificates again."""
        assert self._process is not None, "the proxy was not started"
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """Stop the proxy and wait for its exit."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def log(self) -> str:
        """Return the log."""
        return (self.directory / "log").read_text("utf-8", "replace")


class Nginx(Proxy):
    """nginx."""

    name = "nginx"
    page = "nginx.conf"

    def changes(self) -> dict[str, str]:
        return {
            "listen 443 ": f"listen 127.0.0.1:{self.port} ",
            "server_name streams.example;": "",
            "/etc/ssl/streams.example/fullchain.pem": str(self.certificate),
            "/etc/ssl/streams.example/privkey.pem": str(self.key),
        }

    def command(self, configuration: str) -> list[str]:
        # Minimal main configuration that includes it.
        around = [
            # nginx started as root runs its workers as a user who cannot enter this directory.
            "user root;" if os.getuid() == 0 else "",
            "daemon off; worker_processes 1; error_log stderr; pid nginx.pid;",
            "events { worker_connections 512; }",
            "http { access_log off;",
            *(f"{what}_temp_path {what};" for what in ("client_body", "proxy", "fastcgi")),
            *(f"{what}_temp_path {what};" for what in ("uwsgi", "scgi")),
            configuration,
            "}",
        ]
        path = self.directory / "nginx.conf"
        path.write_text("\n".join(around), "utf-8")
        return ["-p", str(self.directory), "-e", "stderr", "-c", str(path)]


class HAProxy(Proxy):
    """HAProxy."""

    name = "haproxy"
    page = "haproxy.cfg"

    def changes(self) -> dict[str, str]:
        return {
            "bind :443 ": f"bind 127.0.0.1:{self.port} ",
            "/etc/haproxy/streams.example.pem": str(self.directory / "both.pem"),
        }

    def command(self, configuration: str) -> list[str]:
        # The global section of Debian's file, as far as it concerns HTTP.
        around = "defaults\n mode http\n timeout connect 5000\n timeout client 50000\n"
        path = self.directory / "haproxy.cfg"
        path.write_text(f"{around} timeout server 50000\n{configuration}", "utf-8")
        return ["-db", "-f", str(path)]


class Caddy(Proxy):
    """Caddy."""

    name = "caddy"
    page = "Caddyfile"

    def changes(self) -> dict[str, str]:
        certificate = f"tls {self.certificate} {self.key}"
        return {
            "\nstreams.example {": f"\nhttps://localhost:{self.port} {{\n\tbind 127.0.0.1\n"
            f"\t{certificate}\n"
        }

    def command(self, configuration: str) -> list[str]:
        path = self.directory / "Caddyfile"
        alone = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n"
        path.write_text(alone + configuration, "utf-8")
        return ["run", "--adapter", "caddyfile", "--config", str(path)]
