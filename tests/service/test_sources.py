"""Where settings are said: each source points to what it has."""

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
    """A TOML string of one line."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


class FileTests(SynchronousTestCase):
    """TOML, and the places in it."""

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
        """Texts, numbers, switches and lists become texts."""
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
        """A key is where it begins, whatever stands between and in values."""
        file = self.file(
            "# port = 1\n\nlisten = [\n  'tcp:1', # port = 2\n  'tcp:2',\n]\r\n"
            'root = """\\\n  /a\nport = 3\n"""\nport = 4'
        )
        self.assertEqual(file["listen"].origin, f"{self.path}, line 3")
        self.assertEqual(file["root"].origin, f"{self.path}, line 7")
        self.assertEqual(file["port"].label, f"{self.path}, line 11: port")
        self.assertEqual(file["port"].texts, ("4",))

    def test_lines_of_many_keys(self) -> None:
        """Each statement is parsed once: the work grows with the file, not with its square."""
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
        """What looks like a statement within a string is none."""
        text = (
            'a = """x\n[b]\nc = """"\nd = \'\'\'y\n"""\n\'\'\'\'\'\n'
            "e = \"\\\"[\" # [ '''\nf = '\\'\n[g]\nh = 1\n[[i.j]]\n[g.k]\n"
        )
        self.assertEqual(list(tomllib.loads(text)), ["a", "d", "e", "f", "g", "i"])
        self.assertEqual(
            lines_of_keys(text), {"a": 1, "d": 4, "e": 7, "f": 8, "g": 9, "h": 10, "i": 11}
        )

    @given(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=8))
    def test_lines_of_anything(self, values: dict[str, str]) -> None:
        """Whatever keys and values are, each key is on its line."""
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
        """All of them at once, with what may be meant."""
        self.assertEqual(
            self.refused("port = 1\nmax_body = 1\n\n[server]\nport = 2\n"),
            (
                ", line 2: unknown setting 'max_body'. Did you mean 'max-body'?",
                ", line 4: unknown table 'server'. Settings are top-level keys, not in tables.",
            ),
        )

    def test_wrong_kinds(self) -> None:
        """What no text could stand for."""
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

    def test_no_toml(self) -> None:
        """The place where the parser gave up."""
        (problem,) = self.refused("port = 1\nmax-body = 3 3\n")
        self.assertTrue(problem.startswith(", line 2, column 14: "), problem)
        (problem,) = self.refused("port = 1\nport = 2\n")
        self.assertTrue(problem.startswith(", line 2, "), problem)
        (problem,) = self.refused("listen = [")
        self.assertTrue(problem.startswith(", end of file: "), problem)

    def test_no_text(self) -> None:
        """Bytes that are no text, and far too many."""
        self.assertEqual(self.refused(b"port = 1\nroot = '\xff'\n"), (", line 2: not UTF-8",))
        self.assertIn("larger than 1 MiB", *self.refused(b"#" * (MAX_FILE + 1)))

    def test_no_file(self) -> None:
        """A file that is not there, or is none."""
        for path, trouble in {"missing.toml": "No such file", ".": "Is a directory"}.items():
            problems: list[str] = []
            self.assertEqual(configuration_file(path, problems), {})
            self.assertIn(f"{path}: {trouble}", *problems)

    def test_strange_keys(self) -> None:
        """A key can be any text; a line of TOML ends where TOML says."""
        self.assertEqual(
            self.refused("# \u2028 \x85\n'a b' = 1\n\"\\n\" = 1\n"),
            (", line 2: unknown setting 'a b'.", ", line 3: unknown setting '\\n'."),
        )

    @given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
    def test_anything(self, content: bytes) -> None:
        """Whatever a file has, it is read or refused in sentences of one line."""
        for problem in self.read(content)[1]:
            self.assertEqual(problem.splitlines(), [problem])


class EnvironmentTests(SynchronousTestCase):
    """Variables."""

    def test_values(self) -> None:
        """By the name of the setting; lists are split, what is empty or another's is left."""
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
        """A typo would go unnoticed."""
        problems: list[str] = []
        environment_variables(
            {"DURABLE_STREAMS_MAXBODY": "1", "DURABLE_STREAMS_XYZZY": "1"}, problems
        )
        self.assertEqual(len(problems), 2)
        self.assertIn("Did you mean 'DURABLE_STREAMS_MAX_BODY'?", problems[0])
        self.assertIn("Unknown environment variable 'DURABLE_STREAMS_XYZZY'", problems[1])

    def test_links(self) -> None:
        """What container platforms say of a service of the same name."""
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
        """No variable is two settings', and none looks like a platform's."""
        names = {setting.variable: "1" for setting in SETTINGS.values()}
        self.assertEqual(set(environment_variables(names, [])), set(SETTINGS))


class CommandLineTests(SynchronousTestCase):
    """Options."""

    def test_called(self) -> None:
        """As it was typed."""
        line = command_line({"trust-proxy": False, "fast-channel": True, "port": "1"})
        self.assertEqual(line["trust-proxy"].label, "--no-trust-proxy")
        self.assertEqual(line["fast-channel"].label, "--fast-channel")
        self.assertEqual(line["port"].origin, "--port")

    def test_absent(self) -> None:
        """An option that is absent is no setting."""
        self.assertEqual(command_line({"port": None, "listen": (), "trust-proxy": None}), {})
