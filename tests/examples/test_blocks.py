"""Tests that every fenced block of the documentation is run by a test."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import tomllib
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.cli.commands import commands
from durable_streams_tw.service.settings_table import SETTINGS
from tests.examples.blocks import Block, blocks, one, pages
from tests.examples.programs import TOP

# It has no annotations.
yaml: Any = import_module("yaml")

_HERE = "tests.examples"
_CONFIG = "tests.cli.test_config.PageTests"
_OPERATORS = f"{_HERE}.test_operator_pages"
_SERVERS = f"{_HERE}.test_server_commands.ServerCommandTests.test_settings"
_DATABASE = "tests.postgres.test_page"
_LIBRARY = f"{_HERE}.test_client_library.ClientLibraryTests.test_programs"
_RECIPES = "tests.test_recipes.RecipeTests"
_SUBSCRIPTIONS = f"{_HERE}.test_subscriptions_page.SubscriptionsPageTests"
_UNITS = "tests.packaging.test_systemd.UnitTests.test_known_settings"

#: The test that runs the blocks of a page: those of a language, or those that contain a text.
RUN_BY = {
    "README.md": {
        "sh: pip install": f"{_OPERATORS}.ReadmeTests.test_commands",
        "sh: --config": _SERVERS,
        "console": f"{_OPERATORS}.ReadmeTests.test_commands",
    },
    "docs/auth.md": {
        "sh: token worker": f"{_HERE}.test_auth_page.FirstCommandsTests.test_commands",
        "sh: export TOKEN": f"{_HERE}.test_auth_page.FirstCommandsTests.test_commands",
        "sh: jwt:": "tests.auth.test_page.PageTests.test_jwt",
        "toml": "tests.auth.test_page.PageTests.test_file",
        "json": "tests.auth.test_page.PageTests.test_jwt",
        "python": "tests.auth.test_page.PageTests.test_program",
    },
    "docs/client-library.md": {"sh": _SERVERS, "console": _LIBRARY, "python": _LIBRARY},
    "docs/client.md": {"sh": f"{_HERE}.test_client_page.ClientPageTests.test_commands"},
    "docs/configuration.md": {
        "sh: run": _SERVERS,
        "sh: convert": f"{_CONFIG}.test_caddyfile",
        "text": f"{_CONFIG}.test_caddyfile",
        "toml": f"{_CONFIG}.test_files",
        "console: check": f"{_CONFIG}.test_errors",
        "console: show": f"{_CONFIG}.test_show",
    },
    "docs/console.md": {
        "sh": _SERVERS,
        "console": "tests.http.operators.test_console_page.ConsolePageTests.test_commands",
    },
    "docs/durability.md": {
        "sh": f"{_OPERATORS}.BackupTests.test_commands",
        "console: flawed": f"{_OPERATORS}.BackupTests.test_flawed",
    },
    "docs/embedding.md": {
        "python: app = Klein()": f"{_RECIPES}.test_mounted",
        "python: async def work": f"{_RECIPES}.test_written_to",
        "text": f"{_RECIPES}.test_written_to",
        "python: async def follow": f"{_RECIPES}.test_followed",
    },
    "docs/how-to/back-up.md": {"sh": f"{_OPERATORS}.BackupTests.test_commands"},
    "docs/how-to/browsers.md": {
        "sh": _SERVERS,
        "console": "tests.browser.examples.ReloadTests.test_chat",
        "html": "tests.browser.examples.ReloadTests.test_chat",
        "javascript": "tests.browser.examples.ReloadTests.test_chat",
    },
    "docs/how-to/docker.md": {"yaml": f"{_HERE}.test_blocks.ManifestTests.test_docker_page"},
    "docs/how-to/postgresql.md": {
        "include": f"{_DATABASE}.FileTests.test_compose_file",
        "sql": f"{_DATABASE}.DatabaseTests.test_statements",
        "sh: server move": f"{_DATABASE}.DatabaseTests.test_moved_and_restored",
        "sh: streams.dump": f"{_DATABASE}.DatabaseTests.test_moved_and_restored",
        "sh: db1.example": _SERVERS,
        "sh: pip install": _SERVERS,
    },
    "docs/how-to/reverse-proxies.md": {
        "sh: twistd": _SERVERS,
        "sh: /etc/ssl": "tests.proxies.through.NginxTests.test_page",
        "include": "tests.proxies.through",
    },
    "docs/how-to/rotate-keys.md": {"sh": _SERVERS},
    "docs/how-to/sizing.md": {"sh": f"{_OPERATORS}.SizingTests.test_doctor"},
    "docs/how-to/systemd.md": {
        "include": _UNITS,
        "ini": "tests.packaging.test_systemd.UnitTests.test_drop_in",
        "toml": "tests.service.test_systemd_notify.ManagedTests.test_socket_activation",
    },
    "docs/how-to/tls.md": {
        "sh": f"{_OPERATORS}.TLSTests.test_commands",
        "text: Durable": f"{_OPERATORS}.TLSTests.test_commands",
        "text: Reloaded": f"{_OPERATORS}.TLSTests.test_commands",
        "text: extra": f"{_HERE}.test_server_commands.ServerCommandTests.test_certificate_chain",
    },
    "docs/how-to/workers.md": {"sh": _SERVERS},
    "docs/http.md": {"console": f"{_HERE}.test_http_page.HttpPageTests.test_commands"},
    "docs/install.md": {"sh: pip wheel": "tests.packaging.run"},
    "docs/observability.md": {
        "console: metrics": f"{_OPERATORS}.ReadmeTests.test_commands",
        "console: the disk is full": f"{_HERE}.test_blocks.ManifestTests.test_not_ready",
        "yaml": f"{_HERE}.test_blocks.ManifestTests.test_scrape_configuration",
        "sh: --log-format": f"{_OPERATORS}.LogTests.test_lines",
        "json": f"{_OPERATORS}.LogTests.test_lines",
        "sh: --access-log": f"{_OPERATORS}.LogTests.test_lines",
        "text": f"{_OPERATORS}.LogTests.test_lines",
        "sh: tracing": _SERVERS,
    },
    "docs/other-clients.md": {
        "javascript": f"{_HERE}.test_other_clients_page.OtherClientsPageTests.test_javascript",
        "go": f"{_HERE}.test_other_clients_page.OtherClientsPageTests.test_go",
    },
    "docs/protocol.md": {"console": f"{_OPERATORS}.ReadmeTests.test_commands"},
    "docs/subscriptions.md": {
        "console: worker.example": f"{_SUBSCRIPTIONS}.test_webhook",
        "json: orders/17": f"{_SUBSCRIPTIONS}.test_webhook",
        "javascript": f"{_SUBSCRIPTIONS}.test_verifies",
        "console: sub create": f"{_SUBSCRIPTIONS}.test_verifies",
        "console: /wake/pool": f"{_SUBSCRIPTIONS}.test_pull_wake",
        "json: jobs/1": f"{_SUBSCRIPTIONS}.test_pull_wake",
    },
    "docs/tutorial.md": {
        "sh: http.server": f"{_HERE}.test_tutorial.TutorialTests.test_installing",
        "console": f"{_HERE}.test_tutorial.TutorialTests.test_commands",
        "python": f"{_HERE}.test_tutorial.TutorialTests.test_commands",
        "html": "tests.browser.examples.ReloadTests.test_tutorial",
    },
    "examples/README.md": {
        "sh: dev": _SERVERS,
        "sh: --database": _SERVERS,
        "sh: sub create": f"{_DATABASE}.DatabaseTests.test_job_queue",
        "sh: create jobs/1": f"{_DATABASE}.DatabaseTests.test_job_queue",
        "sh: job_log": f"{_HERE}.test_examples.ExampleTests.test_commands_of_the_readme",
        "sh: llm_tokens": f"{_HERE}.test_examples.ExampleTests.test_llm_tokens",
        "sh: table_sync": f"{_HERE}.test_examples.ExampleTests.test_commands_of_the_readme",
    },
}

_REGISTRY = "needs the package registries; `tests.packaging.run` has the commands of the README"
#: Blocks that tests cannot run, with the reason. `ParsedTests` checks them.
NOT_RUN = {
    "README.md": {"sh: ./check": "it runs this test"},
    "CONTRIBUTING.md": {
        "sh": "commands of the tests themselves, of package managers and of releases",
        "text": "examples of prose",
        "python": "examples of style without their modules",
    },
    "docs/durability.md": {"console: powercut": "takes minutes; the tests simulate fewer cuts"},
    "docs/how-to/docker.md": {"sh": "needs a Docker daemon"},
    "docs/how-to/postgresql.md": {
        "sh: docker": "needs a Docker daemon",
        "sh: kubectl": "needs a cluster",
    },
    "docs/how-to/reverse-proxies.md": {"sh: certbot": "needs a certificate authority"},
    "docs/how-to/systemd.md": {
        "sh": "needs root and systemd as the init process; the units are verified",
    },
    "docs/index.md": {"sh": _REGISTRY},
    "docs/install.md": {"sh: pip install .": _REGISTRY},
    "docs/tutorial.md": {"sh: pip install": _REGISTRY},
    "docs/subscriptions.md": {"sh": "measures for minutes"},
    "newsfragments/README.md": {"sh": "changes the checkout; `./check news` is a step"},
}


def matching(page: str, selector: str) -> list[Block]:
    """Return the blocks that a selector (``language`` or ``language: text``) means."""
    language, _, text = selector.partition(": ")
    return blocks(page, language, text)


class CoverageTests(SynchronousTestCase):
    """The tables of this module."""

    def test_each_block_once(self) -> None:
        """Each block of each page is in one table, once, and each entry has a block."""
        for page in pages():
            selectors = [*RUN_BY.get(page, ()), *NOT_RUN.get(page, ())]
            listed = Counter(block for name in selectors for block in matching(page, name))
            self.assertEqual([name for name in selectors if not matching(page, name)], [], page)
            wrong = [block for block in blocks(page) if listed[block] != 1]
            self.assertEqual(wrong, [], "run the block in a test and add it to RUN_BY")
        self.assertLessEqual({*RUN_BY, *NOT_RUN}, set(pages()))

    def test_tests_exist(self) -> None:
        """Each test of the table exists, in a module that trial or a step of `check` runs."""
        steps = (TOP / "check").read_text("utf-8")
        for test in {test for tests in RUN_BY.values() for test in tests.values()}:
            module = re.match(r"[a-z_.]+(?=\.[A-Z]|$)", test)[0]  # type: ignore[index]
            text = TOP.joinpath(*module.split(".")).with_suffix(".py").read_text("utf-8")
            if test != module:
                name, method = test.removeprefix(f"{module}.").split(".")
                (found,) = [
                    node
                    for node in ast.parse(text).body
                    if isinstance(node, ast.ClassDef) and node.name == name
                ]
                self.assertIn(method, {getattr(node, "name", "") for node in found.body}, test)
            last = module.rpartition(".")[2]
            self.assertTrue(last.startswith("test_") or f'"{last}"' in steps or module in steps)


class ParsedTests(SynchronousTestCase):
    """Blocks are correct as text, those that are not run too."""

    def test_syntax(self) -> None:
        """Shell, Python, JSON, TOML and YAML blocks have no syntax errors."""
        parsers: dict[str, Callable[[str], object]] = {
            "json": json.loads,
            "toml": tomllib.loads,
            "yaml": lambda text: list(yaml.safe_load_all(text)),
            "python": lambda text: compile(text, "block", "exec"),
        }
        shell = []
        for page in pages():
            for block in blocks(page):
                if block.language in parsers:
                    parsers[block.language](block.text)
                if block.language == "sh":
                    shell.append(f"( # {page}, line {block.line}\n{block.text})\n")
        done = subprocess.run(["bash", "-n"], input="".join(shell), text=True, capture_output=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def not_run_commands(self) -> list[tuple[str, list[str]]]:
        """Return the page and the words of each command that is not run."""
        lines = [
            (page, line.removeprefix("$ "))
            for page, selectors in NOT_RUN.items()
            for selector in selectors
            for block in matching(page, selector)
            if block.language in ("sh", "console")
            for line in block.text.replace("\\\n", " ").splitlines()
        ]
        return [(page, shlex.split(line, comments=True)) for page, line in lines]

    def test_programs_of_the_checkout(self) -> None:
        """Modules, test targets, steps and files that the commands name exist; modules know the
        options.
        """
        steps = (TOP / "check").read_text("utf-8")
        checked = 0
        for _, words in self.not_run_commands():
            for before, word in pairwise(words):
                if before == "-m" and (spec := find_spec(word)) is not None and spec.origin:
                    source = Path(spec.origin).read_text("utf-8")
                    options = [name for name in words if re.match("--[a-z]", name)]
                    self.assertEqual([name for name in options if name not in source], [], words)
                    checked += 1
                elif before == "./check" and not word.startswith("-"):
                    self.assertIn(f'"{word}"', steps)
                elif before.endswith("/trial"):
                    path = TOP / (word if word.endswith(".py") else word.replace(".", "/"))
                    self.assertTrue(path.exists() or path.with_suffix(".py").exists(), words)
                elif before in ("--prefix", "--file", "--filename"):
                    self.assertTrue((TOP / word).exists(), words)
        self.assertGreater(checked, 10)

    def test_containers(self) -> None:
        """Commands of containers have known variables, and arguments that the server accepts."""
        named = 0
        for page, words in self.not_run_commands():
            if words[:1] == ["docker"]:
                for variable in re.findall(r"DURABLE_STREAMS_[A-Z_]+", " ".join(words)):
                    self.assertIn(variable, {row.variable for row in SETTINGS.values()}, page)
                if "durable-streams-server" in words:
                    command = words[words.index("durable-streams-server") + 1 :]
                    result = CliRunner().invoke(commands, [*command, "--help"])
                    self.assertEqual(result.exit_code, 0, result.output)
                named += 1
        self.assertGreater(named, 6)

    def test_unit_names(self) -> None:
        """`systemctl` and `journalctl` name units that the page has."""
        units = {path.stem for path in (TOP / "docs" / "how-to" / "systemd").iterdir()}
        names = [
            words[-1].partition(".")[0]
            for page, words in self.not_run_commands()
            if words[:1] in (["systemctl"], ["journalctl"]) and words[1:] != ["daemon-reload"]
        ]
        self.assertGreater(len(names), 3)
        self.assertLessEqual(set(names), units)


class ManifestTests(SynchronousTestCase):
    """Files that pages show."""

    def test_docker_page(self) -> None:
        """Compose file and manifests use the paths, ports, user and settings of the image."""
        compose, kubernetes = blocks("docs/how-to/docker.md", "yaml")
        image = (TOP / "Dockerfile").read_text("utf-8")
        (service,) = yaml.safe_load(compose.text)["services"].values()
        stateful, front = yaml.safe_load_all(kubernetes.text)
        pod = stateful["spec"]["template"]
        (container,) = pod["spec"]["containers"]
        labels = pod["metadata"]["labels"]
        self.assertEqual(stateful["spec"]["selector"]["matchLabels"], labels)
        self.assertEqual(front["spec"]["selector"], labels)
        self.assertEqual(stateful["spec"]["serviceName"], front["metadata"]["name"])
        self.assertIn(f"USER {pod['spec']['securityContext']['runAsUser']}:", image)
        for path in (
            service["volumes"][0].split(":")[1],
            container["volumeMounts"][0]["mountPath"],
        ):
            self.assertIn(f"={path}", image)
        variables = {
            **service["environment"],
            **{row["name"]: row["value"] for row in container["env"]},
        }
        result = CliRunner(env=variables).invoke(
            commands, ["config", "check", "--data-dir", "data"]
        )
        self.assertEqual(result.exit_code, 0, result.output)
        self.assertIn(front["spec"]["ports"][0]["targetPort"], container["ports"][0].values())

    def test_scrape_configuration(self) -> None:
        """The configuration of Prometheus has the path of the metrics and the default port."""
        (job,) = yaml.safe_load(one("docs/observability.md", "yaml"))["scrape_configs"]
        self.assertEqual(job["metrics_path"], "/-/metrics")
        port = job["static_configs"][0]["targets"][0].rpartition(":")[2]
        self.assertEqual(port, str(SETTINGS["port"].default))

    def test_not_ready(self) -> None:
        """The page shows the reason that the committer gives for a full disk."""
        from durable_streams_tw.storage.durable.committer import FULL_DISK

        shown = one("docs/observability.md", "console", "the disk is full").splitlines()[1]
        self.assertEqual(json.loads(shown), {"status": "not ready", "why": FULL_DISK})
