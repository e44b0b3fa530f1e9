"""Tests of the group of all commands, and of its imports."""

from __future__ import annotations

import subprocess
import sys

import click
from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw import __version__
from durable_streams_tw.cli.commands import commands
from durable_streams_tw.cli.completion import VARIABLE
from durable_streams_tw.cli.registry import COMMANDS, PROGRAM
from tests.service.black_box import PATIENCE, environment, run_python


def run_program(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the program as the console script does."""
    call = "from durable_streams_tw.cli.commands import main; main()"
    return subprocess.run(
        [sys.executable, "-c", call, *arguments],
        env={**environment(), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


class RegistryTests(SynchronousTestCase):
    """Registry of commands."""

    def test_commands(self) -> None:
        """Each entry has a command, whose help begins with the text of the registry."""
        context = click.Context(commands)
        for name, entry in COMMANDS.items():
            command = commands.get_command(context, name)
            assert command is not None
            self.assertEqual(command.name, name)
            first = " ".join((command.help or "").split("\n\n")[0].split())
            self.assertEqual(first, f"{entry.help}.", name)
        self.assertIsNone(commands.get_command(context, "nonsense"))

    def test_helps(self) -> None:
        """Every command has a help text."""
        for name in COMMANDS:
            result = CliRunner().invoke(commands, [name, "--help"])
            self.assertEqual(result.exit_code, 0, result.output)
            self.assertIn("Usage: ", result.output)


class GroupTests(SynchronousTestCase):
    """The group of commands."""

    def test_help_imports_little(self) -> None:
        """`--help` imports no command and no Twisted."""
        call = (
            "import sys; from durable_streams_tw.cli.commands import commands\n"
            "commands.main(['--help'], standalone_mode=False)\n"
            "parts = {name.split('.')[0] for name in sys.modules}\n"
            "print(sorted(parts & {'twisted', 'rich', 'treq', 'lmdb'}))\n"
            "print([name for name in sys.modules if name.startswith('durable_streams_tw.cli.')])"
        )
        done = run_python(call)
        *listed, foreign, own = done.stdout.splitlines()
        self.assertEqual(foreign, "[]")
        self.assertEqual(
            own,
            "['durable_streams_tw.cli.exit_status', 'durable_streams_tw.cli.registry', "
            "'durable_streams_tw.cli.commands']",
        )
        for name, entry in COMMANDS.items():
            words = [line.split() for line in listed if line.split()[:1] == [name]]
            self.assertEqual(len(words), 1, name)
            self.assertEqual(words[0][1], entry.help.split()[0])

    def test_version(self) -> None:
        """`--version` prints the version of the package."""
        result = CliRunner().invoke(commands, ["--version"])
        self.assertIn(__version__, result.output)

    def test_one_default(self) -> None:
        """The help of `dev` names one default of each setting, its own."""
        text = " ".join(CliRunner().invoke(commands, ["dev", "--help"]).output.split())
        self.assertIn("address to listen on (default: 127.0.0.1)", text)

    def test_usage_errors(self) -> None:
        """A usage error exits with status 2 and names the wrong argument."""
        for arguments in (["nonsense"], ["run", "--nonsense"], ["dev", "--listen=x"]):
            result = CliRunner().invoke(commands, arguments)
            self.assertEqual(result.exit_code, 2)
            self.assertIn(arguments[-1].partition("=")[0], result.output)


class CompletionTests(SynchronousTestCase):
    """Shell completion."""

    def complete(self, *words: str) -> list[str]:
        """Return the completions that bash offers for the last word."""
        variables = {
            VARIABLE: "bash_complete",
            "COMP_WORDS": " ".join([PROGRAM, *words]),
            "COMP_CWORD": str(len(words)),
        }
        done = run_program(**variables)
        self.assertEqual(done.stderr, "")
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    def test_scripts(self) -> None:
        """The script of each shell names the variable that the program reads."""
        for shell in ("bash", "zsh", "fish"):
            result = CliRunner().invoke(commands, ["completion", shell])
            self.assertEqual(result.exit_code, 0, result.output)
            self.assertIn(f"{VARIABLE}={shell}_complete", result.stdout)
            self.assertIn(PROGRAM, result.stdout)
        self.assertEqual(CliRunner().invoke(commands, ["completion", "tcsh"]).exit_code, 2)

    def test_bash_syntax(self) -> None:
        """bash parses its script."""
        script = CliRunner().invoke(commands, ["completion", "bash"]).stdout
        done = subprocess.run(
            ["bash", "-c", f"{script}\ncomplete -p {PROGRAM}"], capture_output=True, text=True
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_completions(self) -> None:
        """Commands, their options and the options' choices are completed."""
        self.assertEqual(self.complete("conf"), ["config"])
        self.assertEqual(self.complete("config", ""), ["check", "convert", "show"])
        self.assertEqual(self.complete("run", "--max-st"), ["--max-stored"])
        self.assertEqual(self.complete("run", "--cache", "p"), ["public", "private"])
