"""The files and commands of docs/how-to/postgresql.md are accepted and do what the page says."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import SkipTest

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.cli.commands import commands
from tests.postgres.cluster import USER, programs, shared_cluster
from tests.postgres.nodes import Node

# It has no annotations.
yaml: Any = import_module("yaml")

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
PAGE = (HOW_TO / "postgresql.md").read_text("utf-8")
FILES = HOW_TO / "postgresql"


def shell_blocks() -> list[str]:
    """Return the shell commands of the page, block by block."""
    return re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


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
        """Its nodes are those of the proxy, and their arguments are valid."""
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
        self.assertIn(f"url={url}", PAGE)
        arguments = [text.replace("$(DATABASE_URL)", url) for text in container["args"]]
        self.accepted(arguments, {})

    def test_commands_of_the_server(self) -> None:
        """Each `run` of the page has valid arguments."""
        lines = [
            line
            for block in shell_blocks()
            for line in block.splitlines()
            if line.startswith("durable-streams-server run")
        ]
        self.assertEqual(len(lines), 2)
        for line in lines:
            self.accepted(shlex.split(line)[1:], {})


class BackupTests(SynchronousTestCase):
    """The documented backup with real programs."""

    def test_restored_dump_is_served(self) -> None:
        cluster = shared_cluster()
        found = shutil.which("pg_dump", path=f"{programs()[cluster.version]}:/usr/bin")
        if found is None:
            raise SkipTest("pg_dump is not installed: apt-get install postgresql-client")
        directory = Path(self.mktemp()).resolve()
        directory.mkdir()
        database = cluster.create_database()
        node = Node(directory, "before", cluster.url(database))
        self.addCleanup(node.stop)
        node.start()
        self.assertEqual(node.ask("PUT", "kept", b"bytes").status, 201)
        offset = node.ask("HEAD", "kept").headers["Stream-Next-Offset"]
        node.stop()

        dump, restore = [block for block in shell_blocks() if "streams.dump" in block]
        restored = f"{database}_restored"
        environment: dict[str, Any] = {
            "PATH": f"{Path(found).parent}:/usr/bin:/bin",
            "PGHOST": str(cluster.directory),
            "PGPORT": str(cluster.port),
            "PGUSER": USER,
            "DATABASE_URL": cluster.url(database),
        }
        for script in (dump, re.sub(r"\brestored\b", restored, restore)):
            done = subprocess.run(
                ["sh", "-ec", script],
                cwd=directory,
                env=environment,
                capture_output=True,
                text=True,
            )
            self.assertEqual(done.returncode, 0, done.stderr)
        again = Node(directory, "after", cluster.url(restored))
        self.addCleanup(again.stop)
        again.start()
        self.assertEqual(again.ask("GET", "kept").body, b"bytes")
        self.assertEqual(again.ask("GET", f"kept?offset={offset}").body, b"")
        self.assertEqual(again.ask("POST", "kept", b"+").status, 204)
        self.assertEqual(again.ask("GET", f"kept?offset={offset}").body, b"+")
