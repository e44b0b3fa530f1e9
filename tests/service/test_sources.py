"""Tests of `durable_streams_tw.service.sources`: files, environment and command line."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.service.settings_table import SETTINGS
from durable_streams_tw.service.sources import (
    MAX_FILE,
    Source,
    command_line,
    configuration_file,
    environment_variables,
    lines_of_keys,
)


def texts_of(source: Source) -> dict[str, tuple[str, ...]]:
    """Return the texts of each setting."""
    return {name: given.texts for name, given in source.items()}


def _quoted(text: str) -> str:
    """Return a TOML string of one line."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


class FileTests(SynchronousTestCase):
    """TOML files and their line numbers."""

    def read(self, content: str | bytes) -> tuple[Source, list[str]]:
        """Return the settings and the errors of a file with this content."""
        self.path = Path(self.mktemp())
        self.path.write_bytes(content if isinstance(content, bytes) else content.encode())
        problems: list[str] = []
        return configuration_file(str(self.path), problems), problems

    def file(self, content: str | bytes) -> Source:
        """Return the settings of a valid file with this content."""
        source, problems = self.read(content)
        self.assertEqual(problems, [])
        return source

    def refused(self, content: str | bytes) -> tuple[str, ...]:
        """Return the errors of a file with this content, without its name."""
        problems = self.read(content)[1]
        self.assertTrue(problems)
        for problem in problems:
            self.assertTrue(problem.startswith(str(self.path)), problem)
        return tuple(problem.removeprefix(str(self.path)) for problem in problems)

    def test_values(self) -> None:
        """Strings, numbers, booleans and lists are returned as strings."""
        file = self.file(
            'max-body = "8MiB"\nport = 80\nidle-timeout = 1.5\ntrust-proxy = true\n'
            'fast-channel = false\ncors-origin = ["*"]\nlisten = "tcp:1"\n'
        )
        self.assertEqual(
            texts_of(file),
            {
                "max-body": ("8MiB",),
                "port": ("80",),
                "idle-timeout": ("1.5",),
                "trust-proxy": ("true",),
                "fast-channel": ("false",),
                "cors-origin": ("*",),
                "listen": ("tcp:1",),
            },
        )

    def test_lines(self) -> None:
        """A key has the line where it begins, whatever values precede it."""
        file = self.file(
            "# port = 1\n\nlisten = [\n  'tcp:1', # port = 2\n  'tcp:2',\n]\r\n"
            'root = """\\\n  /a\nport = 3\n"""\nport = 4'
        )
        self.assertEqual(file["listen"].origin, f"{self.path}, line 3")
        self.assertEqual(file["root"].origin, f"{self.path}, line 7")
        self.assertEqual(file["port"].label, f"{self.path}, line 11: port")
        self.assertEqual(file["port"].texts, ("4",))

    def test_lines_of_many_keys(self) -> None:
        """Each statement is parsed once, so the work is linear in the size of the file."""
        parsed: list[int] = []
        loads = tomllib.loads

        def count(text: str) -> dict[str, Any]:
            parsed.append(len(text))
            return loads(text)

        self.patch(tomllib, "loads", count)
        values = ",\n".join(f"'{number}'" for number in range(3000))
        text = f"listen = [\n{values}\n]\n" + "".join(f"k{n} = 1\n" for n in range(3000))
        lines = lines_of_keys(text)
        self.assertEqual((lines["listen"], lines["k0"], lines["k2999"]), (1, 3003, 6002))
        self.assertLessEqual(sum(parsed), len(text))

    def test_lines_of_strings(self) -> None:
        """Text inside of strings is not taken for statements."""
        text = (
            'a = """x\n[b]\nc = """"\nd = \'\'\'y\n"""\n\'\'\'\'\'\n'
            "e = \"\\\"[\" # [ '''\nf = '\\'\n[g]\nh = 1\n[[i.j]]\n[g.k]\n"
        )
        self.assertEqual(list(tomllib.loads(text)), ["a", "d", "e", "f", "g", "i"])
        self.assertEqual(
            lines_of_keys(text), {"a": 1, "d": 4, "e": 7, "f": 8, "g": 9, "h": 10, "i": 11}
        )

    @given(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=8))
    def test_lines_of_any_keys(self, values: dict[str, str]) -> None:
        """Any key is reported at its line."""
        lines, text = {}, ""
        for key, value in values.items():
            lines[key] = text.count("\n") + 1
            written = _quoted(value)
            if "\\n" in written:
                broken = written.replace("\\n", "\n")
                written = f'""{broken}""'
            text += f"{_quoted(key)} = {written}\n"
        self.assertEqual(lines_of_keys(text), lines)

    def test_unknown_keys(self) -> None:
        """All unknown keys are reported, with suggestions."""
        self.assertEqual(
            self.refused("port = 1\nmax_body = 1\n\n[server]\nport = 2\n"),
            (
                ", line 2: unknown setting 'max_body'. Did you mean 'max-body'?",
                ", line 4: unknown table 'server'. Settings are top-level keys, not in tables.",
            ),
        )

    def test_wrong_types(self) -> None:
        """A value of a wrong type is an error."""
        self.assertEqual(
            self.refused(
                'trust-proxy = "yes"\nport = true\nmax-body = [1]\nroot = {}\n'
                "listen = [['x']]\nmax-chunk = 2024-01-01\n"
            ),
            (
                ", line 1: trust-proxy: expected true or false, without quotes",
                ", line 2: port: expected a string or a number",
                ", line 3: max-body: expected a string or a number",
                ", line 4: root: expected a string or a number",
                ", line 5: listen: expected a list of strings",
                ", line 6: max-chunk: expected a string or a number",
            ),
        )

    def test_invalid_toml(self) -> None:
        """A syntax error has its line and column."""
        (problem,) = self.refused("port = 1\nmax-body = 3 3\n")
        self.assertTrue(problem.startswith(", line 2, column 14: "), problem)
        for text in ("max-body = 8MiB", "data-dir = /var/lib"):
            (problem,) = self.refused(text)
            self.assertTrue(problem.endswith('need quotes: max-body = "8MiB"'), problem)
        (problem,) = self.refused("port = 1\nport = 2\n")
        self.assertTrue(problem.startswith(", line 2, "), problem)
        self.assertTrue(problem.endswith("The key is in the file twice"), problem)
        (problem,) = self.refused("listen = [")
        self.assertTrue(problem.startswith(", end of file: "), problem)

    def test_invalid_bytes(self) -> None:
        """A file that is not UTF-8, or larger than 1 MiB, is an error."""
        self.assertEqual(self.refused(b"port = 1\nroot = '\xff'\n"), (", line 2: not UTF-8",))
        self.assertIn("larger than 1 MiB", *self.refused(b"#" * (MAX_FILE + 1)))

    def test_missing_file(self) -> None:
        """A missing file and a directory are errors."""
        for path, trouble in {"missing.toml": "No such file", ".": "Is a directory"}.items():
            problems: list[str] = []
            self.assertEqual(configuration_file(path, problems), {})
            self.assertIn(f"{path}: {trouble}", *problems)

    def test_unusual_keys(self) -> None:
        """A key may be any text, and only TOML's line ends count."""
        self.assertEqual(
            self.refused("# \u2028 \x85\n'a b' = 1\n\"\\n\" = 1\n"),
            (", line 2: unknown setting 'a b'.", ", line 3: unknown setting '\\n'."),
        )

    @given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
    def test_any_content(self, content: bytes) -> None:
        """Any content is read, or refused with messages of one line each."""
        for problem in self.read(content)[1]:
            self.assertEqual(problem.splitlines(), [problem])


class EnvironmentTests(SynchronousTestCase):
    """Environment variables."""

    def test_values(self) -> None:
        """Variables have the names of settings; lists are split; empty and foreign variables are
        ignored.
        """
        problems: list[str] = []
        environment = environment_variables(
            {
                "DURABLE_STREAMS_MAX_BODY": "8 MiB",
                "DURABLE_STREAMS_CORS_ORIGIN": " https://a.example  https://b.example ",
                "DURABLE_STREAMS_DATA_DIR": "",
                "DURABLE_STREAMS_CONFIG": "streams.toml",
                "DURABLE_STREAMS_URL": "http://localhost:4437",
                "PATH": "/bin",
            },
            problems,
        )
        self.assertEqual(problems, [])
        self.assertEqual(
            texts_of(environment),
            {
                "max-body": ("8 MiB",),
                "cors-origin": ("https://a.example", "https://b.example"),
            },
        )
        self.assertEqual(environment["max-body"].label, "DURABLE_STREAMS_MAX_BODY")
        self.assertEqual(environment["max-body"].origin, "DURABLE_STREAMS_MAX_BODY")

    def test_unknown(self) -> None:
        """An unknown variable with our prefix is an error, with a suggestion."""
        problems: list[str] = []
        environment_variables(
            {"DURABLE_STREAMS_MAXBODY": "1", "DURABLE_STREAMS_XYZZY": "1"}, problems
        )
        self.assertEqual(len(problems), 2)
        self.assertIn("Did you mean 'DURABLE_STREAMS_MAX_BODY'?", problems[0])
        self.assertIn("Unknown environment variable 'DURABLE_STREAMS_XYZZY'", problems[1])

    def test_platform_variables(self) -> None:
        """Variables that container platforms set for a service of this name are ignored."""
        problems: list[str] = []
        environment = environment_variables(
            {
                "DURABLE_STREAMS_SERVICE_HOST": "10.0.0.1",
                "DURABLE_STREAMS_SERVICE_PORT": "4437",
                "DURABLE_STREAMS_SERVICE_PORT_HTTP": "4437",
                "DURABLE_STREAMS_PORT": "tcp://10.0.0.1:4437",
                "DURABLE_STREAMS_PORT_4437_TCP": "tcp://10.0.0.1:4437",
                "DURABLE_STREAMS_PORT_4437_TCP_ADDR": "10.0.0.1",
            },
            problems,
        )
        self.assertEqual((environment, problems), ({}, []))

    def test_names(self) -> None:
        """Variables of settings are unique, and none looks like a platform's."""
        names = {setting.variable: "1" for setting in SETTINGS.values()}
        self.assertEqual(set(environment_variables(names, [])), set(SETTINGS))


class CommandLineTests(SynchronousTestCase):
    """Options."""

    def test_labels(self) -> None:
        """Options are named as they were typed."""
        line = command_line({"trust-proxy": False, "fast-channel": True, "port": "1"})
        self.assertEqual(line["trust-proxy"].label, "--no-trust-proxy")
        self.assertEqual(line["fast-channel"].label, "--fast-channel")
        self.assertEqual(line["port"].origin, "--port")

    def test_absent(self) -> None:
        """An option that is absent is no setting."""
        self.assertEqual(command_line({"port": None, "listen": (), "trust-proxy": None}), {})
