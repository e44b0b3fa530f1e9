"""The files and commands of docs/how-to/postgresql.md are accepted and do what the page says."""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import SkipTest

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.cli.commands import commands
from tests.examples.blocks import blocks, one
from tests.examples.programs import EXAMPLES, process_environment
from tests.postgres.cluster import USER, programs, shared_cluster
from tests.postgres.nodes import Node
from tests.service.black_box import new_directory

# It has no annotations.
yaml: Any = import_module("yaml")

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
PAGE = "docs/how-to/postgresql.md"
FILES = HOW_TO / "postgresql"


class FileTests(SynchronousTestCase):
    """Compose file and Kubernetes manifests."""

    def accepted(self, arguments: list[str], variables: dict[str, str]) -> None:
        """Assert that a node accepts these arguments in the environment of the image."""
        self.assertEqual(arguments[0], "run")
        result = CliRunner(env={"DURABLE_STREAMS_DATA_DIR": "/data/streams", **variables}).invoke(
            commands, ["config", "check", *arguments[1:]]
        )
        self.assertEqual(result.exit_code, 0, result.output)

    def test_compose_file(self) -> None:
        """The nodes of the Compose file are those of the proxy, and their arguments are valid."""
        services = yaml.safe_load((FILES / "compose.yaml").read_text())["services"]
        proxy = (FILES / "haproxy.cfg").read_text()
        self.assertIn("./haproxy.cfg:", services["proxy"]["volumes"][0])
        for name in ("streams1", "streams2"):
            self.assertIn(f"{name}:4437", proxy)
            self.accepted(services[name]["command"], {})

    def test_kubernetes_manifests(self) -> None:
        """Labels and ports fit together, and the arguments are valid."""
        documents = list(yaml.safe_load_all((FILES / "kubernetes.yaml").read_text()))
        deployment, service, budget = documents
        pod = deployment["spec"]["template"]
        (container,) = pod["spec"]["containers"]
        labels = pod["metadata"]["labels"]
        for selector in (
            deployment["spec"]["selector"]["matchLabels"],
            service["spec"]["selector"],
            budget["spec"]["selector"]["matchLabels"],
        ):
            self.assertEqual(selector, labels)
        names = {port["name"] for port in container["ports"]}
        self.assertIn(service["spec"]["ports"][0]["targetPort"], names)
        url = "postgresql://streams@primary.example/streams"
        self.assertEqual(len(blocks(PAGE, "sh", f"url={url}")), 1)
        arguments = [text.replace("$(DATABASE_URL)", url) for text in container["args"]]
        self.accepted(arguments, {})


class DatabaseTests(SynchronousTestCase):
    """The documented commands and statements with real programs."""

    def test_statements(self) -> None:
        """The database accepts the statements of the page."""
        cluster = shared_cluster()
        name = f"page_{secrets.token_hex(4)}"
        for block in blocks(PAGE, "sql"):
            for statement in re.sub(r"--.*", "", block.text).split(";")[:-1]:
                cluster.execute(re.sub(r"\bstreams\b", name, statement))
        settings = cluster.execute(f"SELECT rolconfig FROM pg_roles WHERE rolname = '{name}'")
        self.assertIn("search_path=durable_streams", settings[0][0])

    def shell(self, script: str, **variables: str) -> str:
        """Run commands of the page, which must succeed; return their output."""
        done = subprocess.run(
            ["sh", "-ec", script],
            cwd=self.directory,
            env={**process_environment(self.directory), **variables},
            capture_output=True,
            text=True,
        )
        self.assertEqual(done.returncode, 0, f"{script}\n{done.stderr}")
        return done.stdout

    def test_job_queue(self) -> None:
        """Two workers of the example at two nodes do each job once."""
        page = "examples/README.md"
        self.directory = new_directory(self)
        cluster = shared_cluster()
        url = cluster.url(cluster.create_database())
        nodes = [Node(self.directory, name, url) for name in ("one", "two")]
        for node in nodes:
            self.addCleanup(node.stop)
            node.start()
        workers = one(page, "sh", "sub create").replace(
            " &", ' > worker.log 2>&1 & PIDS="$PIDS $!"'
        )
        script = f"trap 'kill $PIDS' EXIT\n{workers}{one(page, 'sh', 'create jobs/1')}"
        script = script.replace("examples/", f"{EXAMPLES}/")
        for node, port in zip(nodes, ("4437", "4438"), strict=True):
            script = script.replace(port, str(node.port))
        output = self.shell(script, DURABLE_STREAMS_URL=f"{nodes[0].address}/v1/stream/")
        self.assertTrue(output.endswith("2 to\n2 be\n1 or\n1 not\n"), output)

    def test_moved_and_restored(self) -> None:
        """A store that is moved to a directory, to another database, dumped and restored has its
        bytes and offsets.
        """
        cluster = shared_cluster()
        found = shutil.which("pg_dump", path=f"{programs()[cluster.version]}:/usr/bin")
        if found is None:
            raise SkipTest("pg_dump is not installed: apt-get install postgresql-client")
        self.directory = new_directory(self)
        database, moved = cluster.create_database(), cluster.create_database()
        node = Node(self.directory, "before", cluster.url(database))
        self.addCleanup(node.stop)
        node.start()
        self.assertEqual(node.ask("PUT", "kept", b"bytes").status, 201)
        offset = node.ask("HEAD", "kept").headers["Stream-Next-Offset"]
        node.stop()

        for command, url in (
            (one(PAGE, "sh", "streams-server move postgresql"), cluster.url(database)),
            (one(PAGE, "sh", "streams-server move /var"), cluster.url(moved)),
        ):
            command = command.replace("/var/lib/durable-streams", f"{self.directory}/data")
            self.assertIn("1 stream", self.shell(re.sub(r"postgresql://\S+", f"'{url}'", command)))

        dump, restore = blocks(PAGE, "sh", "streams.dump")
        restored = f"{database}_restored"
        for script in (dump.text, re.sub(r"\brestored\b", restored, restore.text)):
            self.shell(
                script,
                PATH=f"{Path(found).parent}:/usr/bin:/bin",
                PGHOST=str(cluster.directory),
                PGPORT=str(cluster.port),
                PGUSER=USER,
                DATABASE_URL=cluster.url(moved),
            )
        again = Node(self.directory, "after", cluster.url(restored))
        self.addCleanup(again.stop)
        again.start()
        self.assertEqual(again.ask("GET", "kept").body, b"bytes")
        self.assertEqual(again.ask("GET", f"kept?offset={offset}").body, b"")
        self.assertEqual(again.ask("POST", "kept", b"+").status, 204)
        self.assertEqual(again.ask("GET", f"kept?offset={offset}").body, b"+")
