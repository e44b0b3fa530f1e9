"""Tests of the commands of all pages that start a server."""

from __future__ import annotations

import os
import re
import shlex

from click.testing import CliRunner
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from durable_streams_tw.cli.commands import commands
from tests.examples.blocks import blocks, one, pages
from tests.examples.programs import RunningProgram
from tests.service.black_box import new_directory
from tests.service.pem import cached_pem

_COMMAND = re.compile(
    r"((?:durable-streams-server (?:run|dev)|twistd [^\n]*?durable-streams)(?: |$))(.*)$",
    re.MULTILINE,
)
#: Addresses and directories of pages, and those of the tests.
_PLACES = (
    (r"/etc/streams(?=/)|(?=\b(?:streams\.toml|tokens\.toml|keys\.json))", "{here}/"),
    (r"/var/lib/durable-streams|/tmp/restored", "{here}/data"),
    (r"--port \d+", "--port 0"),
    (r"\b(ssl|tcp):\d+", r"\1:0"),
    (r"10\.0\.0\.5", "127.0.0.1"),
)


class ServerCommandTests(SynchronousTestCase):
    """Commands of all pages that start a server."""

    def setUp(self) -> None:
        self.here = new_directory(self)
        cached_pem().write(self.here)
        settings = one("docs/configuration.md", "toml", "max-stored")
        (self.here / "streams.toml").write_text(self.moved(settings))
        (self.here / "tokens.toml").write_text(one("docs/auth.md", "toml"))
        CliRunner().invoke(commands, ["webhook-keys", str(self.here / "keys.json")])

    def moved(self, text: str) -> str:
        """Replace addresses and directories of a page by those of the test."""
        for pattern, ours in _PLACES:
            text = re.sub(pattern, ours.format(here=self.here), text)
        return text

    def commands(self) -> list[tuple[str, str]]:
        """Return the commands of all pages once: program and options."""
        found = dict.fromkeys(
            command
            for page in pages()
            for block in blocks(page, "sh")
            for command in _COMMAND.findall(block.text.replace("\\\n", " "))
        )
        self.assertGreater(len(found), 20)
        return list(found)

    def test_settings(self) -> None:
        """`config check` accepts the options of each command, with the files that they name."""
        for _, options in self.commands():
            arguments = shlex.split(self.moved(options))
            result = CliRunner().invoke(commands, ["config", "check", *arguments])
            self.assertEqual((options, result.output), (options, "The settings are valid.\n"))

    def test_start(self) -> None:
        """Each command starts a server, except those that need a database of that name."""
        if "START_SERVERS" not in os.environ:
            raise SkipTest("takes half a minute: set START_SERVERS=1")
        for program, options in self.commands():
            if "--database" not in options:
                port = "" if "--listen" in options or "--config" in options else " --port 0"
                line = f"exec {program}{self.moved(options)}{port}"
                with RunningProgram(self.here, "sh", "-c", line):
                    pass

    def test_certificate_chain(self) -> None:
        """`listen` accepts the endpoint with intermediate certificates."""
        pair = cached_pem()
        for name, content in (("privkey", pair.key), ("chain", pair.certificate)):
            (self.here / f"{name}.pem").write_bytes(content)
        endpoint = one("docs/how-to/tls.md", "text", "extraCertChain").strip()
        endpoint = re.sub(r"=(?=\w+\.pem)", f"={self.here}/", endpoint)
        result = CliRunner().invoke(commands, ["config", "check", "--listen", endpoint])
        self.assertEqual(result.output, "The settings are valid.\n")
