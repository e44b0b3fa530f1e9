"""Run the public conformance suite and the public clients against the server.

    python -m tests.conformance.run                   all stores; memory and lmdb with both servers
    python -m tests.conformance.run --store memory    one store: memory, lmdb or postgres
    python -m tests.conformance.run --server fast     one HTTP server: fast or klein
    python -m tests.conformance.run --workers 3       with worker processes only
    python -m tests.conformance.run --url URL         a running server, http://host:port

Without options, the durable store also runs with workers. Exits with 0 on success, 1 on a failure,
and 77 without Node. No test is retried.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.conformance.service import ServiceFault, running
from tests.conformance.verdict import judge, pattern
from tests.ports import free_port
from tests.postgres.cluster import programs, shared_cluster
from tests.postgres.nodes import round_robin

HERE = Path(__file__).parent
TOP = HERE.parent.parent
NODE_MAJOR = 20
NO_NODE = 77
LONG_POLL_SECONDS = 2
# Time limit of the suite's long-poll tests, to which the suite adds a second.
LONG_POLL_TEST_MS = 10_000
STEP_SECONDS = 300
# Runs at the same time. Each one mostly waits, and uses half a core.
PARALLEL = min(2, os.cpu_count() or 1)
# On PostgreSQL, HAProxy sends each request to the other one of two nodes.
STORES = ("memory", "lmdb", "postgres")
# Options that select the HTTP/1.1 server.
SERVERS = {"fast": [], "klein": ["--no-fast-channel"]}


@dataclass
class Tally:
    """Numbers of passed and excluded tests, faults, and what the tests have printed."""

    passed: int = 0
    excluded: int = 0
    faults: list[str] = field(default_factory=list)
    printed: str = ""

    def print(self, text: str) -> None:
        """Keep a text for later, so that the output of parallel tests does not mix."""
        self.printed += f"{text}\n"

    @contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """Record a fault of the service, or the timeout of a step, instead of raising it."""
        try:
            yield
        except (ServiceFault, subprocess.TimeoutExpired) as fault:
            self.faults.append(f"{what}: {fault}")
            self.print(f"{what}: {fault}")


def node_is_missing() -> str | None:
    """Return an error message if Node is missing or too old, else None."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        return f"Node {NODE_MAJOR} or newer is needed, with npm, and is not on the path."
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    number = re.match(r"v(\d+)", said)
    if number is None or int(number[1]) < NODE_MAJOR:
        return f"Node {NODE_MAJOR} or newer is needed; {node} is {said.strip()}."
    return None


def install_packages() -> None:
    """Install the pinned npm packages unless they are installed."""
    lock = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    stamp = HERE / "node_modules" / ".stamp"
    if stamp.exists() and stamp.read_text() == lock:
        return
    subprocess.run(["npm", "ci", "--no-progress"], cwd=HERE, check=True)
    stamp.write_text(lock)


def step(
    tally: Tally, name: str, command: list[str], cwd: Path, variables: Mapping[str, str]
) -> int:
    """Run a command with additional environment variables; return its exit status."""
    environment = {**os.environ, **variables, "NO_COLOR": "1"}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        timeout=STEP_SECONDS,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    tally.print(f"--- {name}\n{done.stdout}")
    return done.returncode


def run_suite(tally: Tally, store: str, address: str, scratch: Path) -> None:
    """Run the public suite without the groups in excluded.json."""
    groups: dict[str, str] = json.loads((HERE / "excluded.json").read_text())
    report = scratch / "report.json"
    report.unlink(missing_ok=True)
    vitest = ["npx", "--no-install", "vitest", "run", "-t", pattern(groups)]
    vitest += ["--reporter=dot", "--reporter=json", f"--outputFile.json={report}"]
    variables = {
        "CONFORMANCE_URL": address,
        "CONFORMANCE_LONG_POLL_MS": str(LONG_POLL_TEST_MS),
    }
    code = step(tally, f"public suite, {store}", vitest, HERE, variables)
    if not report.exists():
        tally.faults.append(f"public suite, {store}: no report, exit code {code}")
        return
    verdict = judge(json.loads(report.read_text()), groups)
    tally.passed += verdict.passed
    tally.excluded += sum(verdict.excluded.values())
    tally.faults += [f"public suite, {store}: {fault}" for fault in verdict.faults]
    if code != 0 and not verdict.faults:
        tally.faults.append(f"public suite, {store}: exit code {code} without a failed test")
    left_out = ", ".join(f"{n} of {name!r}" for name, n in verdict.excluded.items())
    tally.print(f"public suite, {store}: {verdict.passed} passed, {len(verdict.faults)} faults")
    tally.print(f"public suite, {store}: left out by name: {left_out or 'nothing'}")


def run_client(
    tally: Tally, what: str, command: list[str], cwd: Path, more: dict[str, str]
) -> None:
    """Run a script of clients/. It counts as one test and prints its errors."""
    if step(tally, what, command, cwd, more) == 0:
        tally.passed += 1
    else:
        tally.faults.append(what)


def run_clients(tally: Tally, store: str, address: str, phase: str, scratch: Path) -> None:
    """Run both clients: ``phase`` is ``client``, or ``before`` or ``after`` a restart."""
    script = "client" if phase == "client" else "restart"
    for kind in ("npm", "pypi"):
        variables = {
            "STREAMS_URL": f"{address}/v1/stream/",
            "RESTART_PHASE": phase,
            "RESTART_STATE": str(scratch / f"{kind}-state.json"),
        }
        if kind == "npm":
            command, cwd = ["node", "--test", f"npm_{script}.test.mjs"], HERE / "clients"
        else:
            module = f"tests.conformance.clients.pypi_{script}"
            command, cwd = [sys.executable, "-m", "unittest", module], TOP
        run_client(tally, f"{kind} {phase}, {store}", command, cwd, variables)
    if phase == "client":
        frameworks = ["node", "--test", "--test-force-exit", "npm_frameworks.test.mjs"]
        variables = {"STREAMS_URL": f"{address}/v1/stream/"}
        run_client(tally, f"npm frameworks, {store}", frameworks, HERE / "clients", variables)


def run_chat(tally: Tally) -> None:
    """Run the chat, whose server the script starts and kills itself."""
    variables = {"STREAMS_TWISTD": str(Path(sys.executable).with_name("twistd"))}
    command = ["node", "--test", "--test-force-exit", "npm_chat.test.mjs"]
    run_client(tally, "npm chat", command, HERE / "clients", variables)


@contextmanager
def two_nodes(options: list[str], scratch: Path) -> Iterator[str]:
    """Run two nodes on one database behind HAProxy; yield the address of HAProxy."""
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        address = f"http://127.0.0.1:{stack.enter_context(round_robin(scratch, ports))}"
        for name, port in zip(("one", "two"), ports, strict=True):
            more = ["--node", name, "--public-url", address, "--allow-local-webhooks"]
            stack.enter_context(running([*options, *more], scratch / f"{name}.log", port))
        yield address


def run_store(tally: Tally, store: str, server: str, workers: int = 1) -> None:
    """Run all tests on one store; restart the server in between if the store is durable."""
    what = f"{store}, {server}" + (f", {workers} workers" if workers > 1 else "")
    with tempfile.TemporaryDirectory(prefix="durable-streams-") as folder:
        scratch = Path(folder)
        options = ["--long-poll-timeout", f"{LONG_POLL_SECONDS}s", *SERVERS[server]]
        options += ["--workers", str(workers)]
        serve = partial(running, log=scratch / "twistd.log")
        if store == "lmdb":
            options += ["--data-dir", str(scratch / "data")]
        elif store == "postgres":
            cluster = shared_cluster()
            options += ["--database", cluster.url(cluster.create_database()), "--unsafe-database"]
            serve = partial(two_nodes, scratch=scratch)
        before = len(tally.faults)
        with tally.noting(f"service, {what}"), serve(options) as address:
            run_suite(tally, what, address, scratch)
            run_clients(tally, what, address, "client", scratch)
            if store != "memory":
                run_clients(tally, what, address, "before", scratch)
        if store != "memory":
            with tally.noting(f"service, {what}, again"), serve(options) as address:
                run_clients(tally, what, address, "after", scratch)
        if store == "postgres" and (count := cluster.deadlocks()):
            tally.faults.append(f"{what}: {count} deadlocks")
        if len(tally.faults) > before:
            for log in scratch.glob("*.log"):
                tally.print(f"--- the end of {log.name}, {what}")
                tally.print("\n".join(log.read_text(errors="replace").splitlines()[-80:]))


def run_given(tally: Tally, address: str) -> None:
    """Run all tests on a running server."""
    with tempfile.TemporaryDirectory(prefix="durable-streams-") as folder:
        run_suite(tally, "given server", address, Path(folder))
        run_clients(tally, "given server", address, "client", Path(folder))


def tally_of(run: Callable[[Tally], None]) -> Tally:
    """Run tests and return their tally."""
    tally = Tally()
    with tally.noting("conformance"):
        run(tally)
    return tally


def main() -> int:
    """Parse the command line, run the tests and print the totals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--store", action="append", choices=STORES, help="only this one")
    parser.add_argument("--server", action="append", choices=SERVERS, help="only this one")
    parser.add_argument("--workers", type=int, help="only with this number of workers")
    parser.add_argument("--url", help="a running server, http://host:port, in place of our own")
    arguments = parser.parse_args()
    sentence = node_is_missing()
    if sentence is not None:
        print(sentence)
        return NO_NODE
    install_packages()
    runs: list[Callable[[Tally], None]] = []
    if arguments.url:
        runs.append(partial(run_given, address=arguments.url.rstrip("/")))
    else:
        for store in arguments.store or STORES:
            if store == "postgres" and not programs() and not os.environ.get("CI"):
                print("public suite, postgres: skipped, PostgreSQL is not installed")
                continue
            for server in arguments.server or (SERVERS if store != "postgres" else ["fast"]):
                workers = arguments.workers or 1
                runs.append(partial(run_store, store=store, server=server, workers=workers))
        if not (arguments.store or arguments.server or arguments.workers):
            runs.append(partial(run_store, store="lmdb", server="fast", workers=3))
            runs.append(run_chat)
    tally = Tally()
    with ThreadPoolExecutor(PARALLEL) as threads:
        for one in threads.map(tally_of, runs):
            print(one.printed, flush=True)
            tally.passed += one.passed
            tally.excluded += one.excluded
            tally.faults += one.faults
    for fault in tally.faults:
        print(f"FAULT {fault}")
    sums = f"{tally.passed} passed, {len(tally.faults)} failed, {tally.excluded} skipped"
    print(f"conformance: {sums}", flush=True)
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
