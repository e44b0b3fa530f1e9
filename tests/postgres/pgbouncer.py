"""PgBouncer in front of a PostgreSQL server of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import SkipTest

from tests.ports import await_port, free_port
from tests.postgres.cluster import USER, Cluster, unprivileged_user

_CONFIGURATION = """[databases]
* = host=127.0.0.1 port={server} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
"""


@contextmanager
def pgbouncer(cluster: Cluster, mode: str) -> Iterator[int]:
    """Run PgBouncer in a pool mode and yield its port.

    If the program is not installed, the test is skipped, or fails in CI.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        sentence = "PgBouncer is not installed: apt-get install pgbouncer"
        raise AssertionError(sentence) if os.environ.get("CI") else SkipTest(sentence)
    port = free_port()
    file = cluster.directory / f"pgbouncer-{port}.ini"
    file.write_text(_CONFIGURATION.format(server=cluster.port, user=USER, port=port, mode=mode))
    process = subprocess.Popen(
        [program, "--quiet", str(file)], user=unprivileged_user(), stderr=subprocess.DEVNULL
    )
    try:
        await_port(port, process, lambda: "PgBouncer does not run")
        yield port
    finally:
        process.kill()
        process.wait()
