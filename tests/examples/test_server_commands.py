"""Tests of the commands of all pages that start a server."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.cli.commands import commands
from tests.examples.blocks import blocks, one, pages
from tests.service.pem import cached_pem

_COMMAND = re.compile(
    r"(?:durable-streams-server (?:run|dev)|twistd [^\n]*?durable-streams)(?: |$)(.*)$",
    re.MULTILINE,
)


class ServerCommandTests(SynchronousTestCase):
    """Settings of the commands, checked as `run` checks them before it opens a port."""

    def test_commands(self) -> None:
        """`config check` accepts the options of each command, with the files that they name."""
        here = Path(self.mktemp()).absolute()
        here.mkdir()
        cached_pem().write(here)
        (here / "streams.toml").write_text(one("docs/configuration.md", "toml", "max-stored"))
        (here / "tokens.toml").write_text(one("docs/auth.md", "toml"))
        found = [
            command
            for page in pages()
            for block in blocks(page, "sh")
            for command in _COMMAND.findall(block.text.replace("\\\n", " "))
        ]
        self.assertGreater(len(found), 25)
        for command in dict.fromkeys(found):
            line = re.sub(r"/etc/streams(?=/)|(?=\b(?:streams|tokens)\.toml)", f"{here}/", command)
            result = CliRunner().invoke(commands, ["config", "check", *shlex.split(line)])
            self.assertEqual((command, result.output), (command, "The settings are valid.\n"))

    def test_certificate_chain(self) -> None:
        """`listen` accepts the endpoint with intermediate certificates."""
        here = Path(self.mktemp()).absolute()
        here.mkdir()
        pair = cached_pem()
        for name, content in (("privkey", pair.key), ("cert", pair.certificate)):
            (here / f"{name}.pem").write_bytes(content)
        (here / "chain.pem").write_bytes(pair.certificate)
        endpoint = one("docs/how-to/tls.md", "text", "extraCertChain").strip()
        endpoint = re.sub(r"=(?=\w+\.pem)", f"={here}/", endpoint)
        result = CliRunner().invoke(commands, ["config", "check", "--listen", endpoint])
        self.assertEqual(result.output, "The settings are valid.\n")
