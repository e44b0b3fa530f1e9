"""Tests of ``config check`` and ``config show``."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.cli import config
from durable_streams_tw.cli.commands import commands as cli_commands
from durable_streams_tw.service.configuration import Configuration, load_configuration
from durable_streams_tw.service.settings_table import SETTINGS
from durable_streams_tw.service.sources import command_line
from tests.examples.console_blocks import commands, matches
from tests.settings_page import PAGE


class ConfigTestCase(SynchronousTestCase):
    """Test case that runs the commands in this process."""

    def run_config(self, *arguments: str, **variables: str) -> Result:
        """Run a command and return its result."""
        return CliRunner(env=variables).invoke(cli_commands, ["config", *arguments])

    def file(self, content: str) -> str:
        """Write a settings file and return its path."""
        path = Path(self.mktemp())
        path.write_text(content)
        return str(path)


class CheckTests(ConfigTestCase):
    """``config check``."""

    def test_valid(self) -> None:
        """Valid settings pass, and nothing is created or opened."""
        path = self.file("data-dir = 'nowhere'\nport = 1\n")
        result = self.run_config("check", "--config", path)
        self.assertEqual((result.exit_code, result.output), (0, "The settings are valid.\n"))
        self.assertFalse(Path("nowhere").exists())

    def test_invalid(self) -> None:
        """Each error has a line, and the exit status is 2."""
        path = self.file("max-body = 'much'\nmax-chunk = 'more'\n")
        result = self.run_config("check", "--config", path)
        self.assertEqual(result.exit_code, 2)
        self.assertEqual(result.stdout, "")
        one, two = result.stderr.splitlines()
        self.assertTrue(one.startswith(f"Error: {path}, line 2: max-chunk: expected a size"), one)
        self.assertTrue(two.strip().startswith(f"{path}, line 1: max-body: expected a size"), two)

    def test_endpoints_and_values(self) -> None:
        """Errors of several endpoints and of values are reported together."""
        path = self.file("max-body = 'much'\nlisten = ['tcp:x', 'ssl:443:privateKey=none']\n")
        result = self.run_config("check", "--config", path)
        self.assertEqual(result.exit_code, 2)
        value, tcp, ssl = result.stderr.splitlines()
        self.assertIn("line 1: max-body: ", value)
        self.assertIn("line 2: listen 'tcp:x': ", tcp)
        self.assertIn("line 2: listen 'ssl:443:privateKey=none': ", ssl)

    def test_missing_webhook_keys(self) -> None:
        """A file of webhook keys that does not exist is an error that names the command."""
        path = str(Path(self.mktemp()).resolve())
        result = self.run_config("check", "--webhook-keys", path)
        self.assertEqual(result.exit_code, 2)
        self.assertIn(f"--webhook-keys: {path} does not exist", result.stderr)
        self.assertIn("durable-streams-server webhook-keys", result.stderr)

    def test_environment(self) -> None:
        """Environment variables are checked, as for the server."""
        result = self.run_config("check", DURABLE_STREAMS_PORT="x")
        self.assertEqual(result.exit_code, 2)
        self.assertIn("DURABLE_STREAMS_PORT: expected a number", result.stderr)

    def test_endpoints(self) -> None:
        """Endpoint descriptions are parsed by Twisted, and missing files are errors."""
        path = self.file("listen = ['ssl:1:privateKey=/missing.pem']\n")
        result = self.run_config("check", "--config", path)
        self.assertEqual(result.exit_code, 2)
        self.assertIn(f"{path}, line 1: listen", result.stderr)
        self.assertIn("missing.pem", result.stderr)
        self.assertEqual(self.run_config("check", "--listen=what:ever").exit_code, 2)


class ShowTests(ConfigTestCase):
    """``config show``."""

    def printed_lines(self, *arguments: str, **variables: str) -> dict[str, str]:
        """Return the printed lines by setting."""
        result = self.run_config("show", *arguments, **variables)
        self.assertEqual(result.exit_code, 0, result.output)
        lines = [line.removeprefix("# ") for line in result.stdout.splitlines()]
        return {line.split(":")[0].split()[0]: line for line in lines if line.strip()}

    def test_sources(self) -> None:
        """Each setting is printed with its source."""
        path = self.file("\nmax-chunk = '2k'\n")
        lines = self.printed_lines(
            "--config", path, "--max-body=8m", "--no-fast-channel", DURABLE_STREAMS_PORT="80"
        )
        self.assertRegex(lines["max-body"], '^max-body = "8m" +# --max-body$')
        self.assertRegex(lines["port"], "^port = 80 +# DURABLE_STREAMS_PORT$")
        self.assertRegex(lines["max-chunk"], f'^max-chunk = "2k" +# {path}, line 2$')
        self.assertRegex(lines["fast-channel"], "^fast-channel = false +# --no-fast-channel$")
        self.assertRegex(lines["idle-timeout"], '^idle-timeout = "60s" +# default$')
        self.assertRegex(lines["data-dir"], "^data-dir is not set +# default$")
        self.assertLessEqual(set(SETTINGS), set(lines))

    def test_overridden_port(self) -> None:
        """A port that `listen` replaces is not printed."""
        lines = self.printed_lines("--listen=tcp:1", DURABLE_STREAMS_PORT="80")
        self.assertIn("port: overridden by listen", lines["port"])
        self.assertIn('listen = ["tcp:1"]', lines["listen"])

    def test_not_utf8(self) -> None:
        """A path that TOML cannot represent is shown in a comment."""
        path = os.fsdecode(b"/tmp/\xff\x01")
        chosen = Configuration([command_line({"data-dir": path})])
        text = config.format_settings(chosen)
        text.encode("utf-8")
        self.assertIn('# not UTF-8: data-dir = "/tmp/\\U0000dcff\\U00000001"', text)
        self.assertNotIn("data-dir", tomllib.loads(text))

    def test_secrets_of_auth(self) -> None:
        """Neither `show` nor an error message prints the credentials of a token source."""
        auth = "jwt:issuer=i,audience=a,jwks=https://me:hunter2@id.example/keys?hunter2"
        result = self.run_config("show", f"--auth={auth}")
        self.assertEqual(result.exit_code, 0)
        self.assertIn("# redacted: auth = [", result.output)
        self.assertIn("id.example", result.output)
        self.assertNotIn("hunter2", result.output)
        for text in ("jwt:jwks=https://hunter2@id.example/ x", "memory:me:hunter2"):
            result = self.run_config("check", f"--auth={text}")
            self.assertEqual(result.exit_code, 2)
            self.assertNotIn("hunter2", result.output)

    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "port": st.integers(0, 65535).map(str),
                "interface": st.sampled_from(["::1", "127.0.0.1"]),
                "root": st.sampled_from(["/", "/a/b", "/v1/stream/"]),
                "data-dir": st.text(
                    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1
                ),
                "max-body": st.sampled_from(["1", "8 MiB", "1.5k"]),
                "public-url": st.just("https://a.example/b"),
                "trust-proxy": st.sampled_from(["true", "false"]),
                "fast-channel": st.sampled_from(["true", "false"]),
                "cache": st.sampled_from(["public", "private"]),
            },
        ),
        st.lists(st.text(min_size=1).filter(str.strip), max_size=3),
    )
    def test_output_is_a_file(self, given: dict[str, str], listen: list[str]) -> None:
        """The output is a settings file with the same meaning."""
        options: dict[str, tuple[str, ...]] = {name: (text,) for name, text in given.items()}
        if listen:
            options = {"listen": tuple(listen), **options}
            options.pop("port", None)
            options.pop("interface", None)
        chosen = Configuration([command_line(options)])
        text = config.format_settings(chosen)
        tomllib.loads(text)
        again = load_configuration({}, {}, self.file(text))
        for name in SETTINGS:
            if chosen.overridden_by(name) is None:
                self.assertEqual(again[name], chosen[name], name)
        self.assertEqual(again.settings, chosen.settings)


class PageTests(ConfigTestCase):
    """Examples of docs/configuration.md."""

    def setUp(self) -> None:
        self.page = PAGE.read_text("utf-8")

    def blocks(self, language: str) -> list[str]:
        """Return all code blocks of a language."""
        found = re.findall(rf"```{language}\n(.*?)```", self.page, re.DOTALL)
        self.assertTrue(found)
        return found

    def test_files(self) -> None:
        """Every settings file of the page is valid, the translated Caddyfile included."""
        example, translated = self.blocks("toml")
        result = self.run_config("check", "--config", self.file(example))
        self.assertEqual((result.exit_code, result.stderr), (0, ""))
        chosen = load_configuration({}, {}, self.file(translated))
        self.assertEqual(chosen["port"], 4437)
        self.assertEqual(chosen["root"], b"v1/stream/")
        self.assertEqual(chosen["data-dir"], str(Path("data").resolve()))
        self.assertEqual(chosen.settings.long_poll_timeout, 30)
        self.assertEqual(chosen.settings.sse_reconnect_interval, 120)

    def test_translations(self) -> None:
        """Each Caddy directive is translated to a setting and a valid value."""
        _, _, table = self.page.partition("| Caddyfile | setting |")
        pairs = re.findall(r"`([a-z-]+) = ([^`]+)`", table)
        self.assertGreater(len(pairs), 8)
        for name, value in pairs:
            beside = "" if name == "data-dir" else "data-dir = 'x'\n"
            load_configuration({}, {}, self.file(f"{beside}{name} = {value}\n"))

    def test_errors(self) -> None:
        """The printed error messages are those of the program."""
        example = self.blocks("toml")[0].replace("200GiB", "200 gigs")
        file, variable = re.findall(r"^(Error: .*)$", self.page, re.MULTILINE)
        Path("streams.toml").write_text(example)
        self.addCleanup(Path("streams.toml").unlink)
        result = self.run_config("check", "--config", "streams.toml")
        self.assertEqual(result.stderr.splitlines(), [file])
        result = self.run_config("check", DURABLE_STREAMS_MAX_BDY="1k")
        self.assertEqual(result.stderr.splitlines(), [variable])

    def test_caddyfile(self) -> None:
        """`config convert` prints the settings that the page shows for its Caddyfile."""
        (caddyfile,) = self.blocks("text")
        result = self.run_config("convert", self.file(caddyfile))
        self.assertEqual(
            [line for line in result.output.splitlines() if not line.startswith("#")],
            self.blocks("toml")[1].splitlines(),
        )

    def test_show(self) -> None:
        """`config show` prints what the page shows."""
        (command,) = [row for row in commands(self.page) if "config show" in row.line]
        variable, _, _, _, *arguments = command.line.split()
        arguments[1] = self.file(self.blocks("toml")[0])
        name, _, value = variable.partition("=")
        result = self.run_config("show", *arguments, **{name: value})
        self.assertTrue(matches(command.output, result.output), result.output)
