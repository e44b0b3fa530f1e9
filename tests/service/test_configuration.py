"""Tests of the settings table and of `durable_streams_tw.service.configuration`."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.settings import Settings
from durable_streams_tw.service.configuration import (
    Configuration,
    ConfigurationError,
    load_configuration,
)
from durable_streams_tw.service.database import database_settings
from durable_streams_tw.service.port_announcer import storage_name
from durable_streams_tw.service.settings_table import GROUPS, SETTINGS, Setting
from durable_streams_tw.service.sources import command_line, environment_variables, preset
from durable_streams_tw.service.value_parsers import count


class TableTests(SynchronousTestCase):
    """The table of settings."""

    def test_fields(self) -> None:
        """Each field of `Settings` has one row, or is computed, and each ``field`` exists."""
        fields = [row.field or row.name.replace("-", "_") for row in SETTINGS.values()]
        self.assertEqual(len(fields), len(set(fields)))
        known = set(Settings.__struct_fields__)
        self.assertEqual(known - set(fields), {"private"})
        self.assertLessEqual({row.field for row in SETTINGS.values() if row.field}, known)

    def test_names(self) -> None:
        """Names and letters are unique, and names are in small letters."""
        self.assertEqual(len(SETTINGS), sum(map(len, GROUPS.values())))
        letters = [row.short for row in SETTINGS.values() if row.short is not None]
        self.assertEqual(len({*letters, "c", "h"}), len(letters) + 2)
        for setting in SETTINGS.values():
            self.assertRegex(setting.name, "^[a-z]+(-[a-z]+)*$")
            self.assertFalse(setting.name.startswith("no-"), setting.name)
            self.assertNotEqual(setting.name, "config")
            self.assertTrue(setting.metavar or setting.kind == "flag", setting.name)

    def test_presets(self) -> None:
        """The values of `dev` are valid."""
        for setting in SETTINGS.values():
            if setting.dev is not None:
                setting.parse(setting.dev)


class ConfigurationTests(SynchronousTestCase):
    """Precedence, conflicts and error messages."""

    def file(self, content: str) -> str:
        """Write a file and return its path."""
        path = Path(self.mktemp())
        path.write_text(content)
        return str(path)

    def refused(
        self,
        options: dict[str, tuple[str, ...]],
        environment: dict[str, str] | None = None,
        file: str | None = None,
    ) -> tuple[str, ...]:
        """Return the error messages of a configuration."""
        path = None if file is None else self.file(file)
        bad = self.assertRaises(
            ConfigurationError, load_configuration, options, environment or {}, path
        )
        problems: tuple[str, ...] = bad.problems
        return problems

    def test_defaults(self) -> None:
        """Defaults equal those of `Settings`."""
        self.assertEqual(load_configuration({}, {}, None).settings, Settings())

    def test_file_of_the_environment(self) -> None:
        """An environment variable may name the file; the option overrides it."""
        one, two = self.file("port = 1"), self.file("port = 2")
        environment = {"DURABLE_STREAMS_CONFIG": one}
        self.assertEqual(load_configuration({}, environment, None)["port"], 1)
        self.assertEqual(load_configuration({}, environment, two)["port"], 2)

    @given(st.sets(st.sampled_from(["option", "variable", "file"])))
    def test_precedence(self, places: set[str]) -> None:
        """Option, environment variable, file and default have this precedence; lists are not
        merged.
        """
        values = {"option": "1s", "variable": "2s", "file": "3s"}
        origins = {"https://option.example", "https://variable.example", "https://file.example"}
        options: dict[str, tuple[str, ...]] = {}
        environment = {}
        file = ""
        if "option" in places:
            options = {"idle-timeout": ("1s",), "cors-origin": ("https://option.example",)}
        if "variable" in places:
            environment = {
                "DURABLE_STREAMS_IDLE_TIMEOUT": "2s",
                "DURABLE_STREAMS_CORS_ORIGIN": "https://variable.example",
            }
        if "file" in places:
            file = "idle-timeout = '3s'\ncors-origin = ['https://file.example']\n"
        path = self.file(file)
        chosen = load_configuration(options, environment, path)
        first = next((place for place in values if place in places), None)
        if first is None:
            self.assertEqual(chosen["idle-timeout"], 60.0)
            self.assertEqual(chosen["cors-origin"], ("*",))
            self.assertEqual(chosen.origin("idle-timeout"), "default")
            return
        self.assertEqual(chosen.texts("idle-timeout"), (values[first],))
        self.assertEqual(chosen["cors-origin"], (f"https://{first}.example",))
        self.assertLess(set(chosen["cors-origin"]), origins)
        told = {
            "option": "--idle-timeout",
            "variable": "DURABLE_STREAMS_IDLE_TIMEOUT",
            "file": f"{path}, line 1",
        }
        self.assertEqual(chosen.origin("idle-timeout"), told[first])

    def test_errors_name_their_source(self) -> None:
        """Errors name their source, and all errors are reported together."""
        sentence = "expected a size such as 65536, 512k or 64MiB, got 'much'"
        self.assertEqual(
            self.refused({"max-body": ("much",), "port": ("x",)}),
            ("--port: expected a number from 0 to 65535, got 'x'", f"--max-body: {sentence}"),
        )
        self.assertEqual(
            self.refused({}, {"DURABLE_STREAMS_MAX_BODY": "much"}),
            (f"DURABLE_STREAMS_MAX_BODY: {sentence}",),
        )
        (problem,) = self.refused({}, {}, "\nmax-body = 'much'\n")
        self.assertTrue(problem.endswith(f", line 2: max-body: {sentence}"), problem)

    def test_all_errors(self) -> None:
        """The errors of options, environment and file are reported together."""
        problems = self.refused(
            {"port": ("x",)}, {"DURABLE_STREAMS_XYZZY": "1"}, "nonsense = 1\nmax-body = ''\n"
        )
        self.assertEqual(len(problems), 4, problems)
        self.assertIn("DURABLE_STREAMS_XYZZY", problems[0])
        self.assertIn("line 1: unknown setting 'nonsense'", problems[1])
        self.assertIn("--port", problems[2])
        self.assertIn("line 2: max-body", problems[3])

    def test_data_dir_and_database(self) -> None:
        """`data-dir` and `database` exclude each other: the source of higher precedence wins."""
        url = "postgresql://streams@db/streams"
        chosen = load_configuration({"database": (url,)}, {"DURABLE_STREAMS_DATA_DIR": "/d"}, None)
        self.assertEqual((chosen["database"], chosen["data-dir"]), (url, None))
        self.assertEqual(chosen.overridden_by("data-dir"), "database")
        self.assertIsNone(chosen.overridden_by("database"))
        chosen = load_configuration({"data-dir": ("/d",)}, {"DURABLE_STREAMS_DATABASE": url}, None)
        self.assertEqual((chosen["database"], chosen["data-dir"]), (None, "/d"))
        self.assertEqual(
            storage_name(chosen), "/d, not in the database of DURABLE_STREAMS_DATABASE"
        )
        self.assertEqual(
            self.refused({"data-dir": ("/d",), "database": (url,)}),
            ("--database: cannot be combined with data-dir; set one of them",),
        )
        self.assertEqual(
            self.refused({"database": (url,), "max-stored": ("1k",)}),
            ("--max-stored: requires data-dir",),
        )

    def test_urls_that_libpq_does_not_accept(self) -> None:
        """`database_settings` names an unknown parameter, and shows no other part of a URL."""
        for name in ("database", "database-listen"):
            for text, reason in (
                ("postgresql://u:geheim@host/db?nonsense=1", 'query parameter: "nonsense"'),
                ("postgresql://u:geheim%zz@host/db", "is not a valid URL"),
            ):
                values = {"database": ("postgresql://host/db",), name: (text,)}
                configuration = load_configuration(values, {}, None)
                error = self.assertRaises(ConfigurationError, database_settings, configuration)
                self.assertIn(f"--{name}: ", str(error))
                self.assertIn(reason, str(error))
                self.assertNotIn("geheim", str(error))

    def test_errors_have_no_password(self) -> None:
        """An error about a database URL does not show its password."""
        for text in ("mysql://u:geheim@host/db", "host=db password=geheim"):
            (problem,) = self.refused({"database": (text,)})
            self.assertIn("expected a URL such as postgresql://", problem)
            self.assertNotIn("geheim", problem)

    def test_listen_and_port(self) -> None:
        """`listen` and `port` exclude each other: the source of higher precedence wins, and one
        source with both is an error.
        """
        one = load_configuration({"listen": ("tcp:1",)}, {"DURABLE_STREAMS_PORT": "2"}, None)
        self.assertEqual(one["listen"], ("tcp:1",))
        self.assertEqual(one.overridden_by("port"), "listen")
        self.assertIsNone(one.overridden_by("listen"))
        other = load_configuration({"port": ("2",)}, {"DURABLE_STREAMS_LISTEN": "tcp:1"}, None)
        self.assertEqual((other["listen"], other["port"]), ((), 2))
        self.assertEqual(other.overridden_by("listen"), "port")
        self.assertIsNone(other.overridden_by("port"))
        both = load_configuration(
            {"interface": ("::1",)}, {"DURABLE_STREAMS_LISTEN": "tcp:1"}, None
        )
        self.assertEqual(both.overridden_by("listen"), "interface")
        (problem,) = self.refused({}, {}, "port = 1\nlisten = ['tcp:1']")
        self.assertIn("line 2: listen: cannot be combined with port", problem)
        self.assertEqual(
            load_configuration({"port": ("1",)}, {}, self.file("listen = []"))["port"], 1
        )

    def test_required_settings(self) -> None:
        """A setting without the one that it depends on is an error; an overridden one suffices."""
        url = "postgresql://db/x"
        for name, value, needed, other in (
            ("auth-cookie", "token", "auth", "file:tokens.toml"),
            ("database-listen", url, "database", url),
        ):
            self.assertEqual(self.refused({name: (value,)}), (f"--{name}: requires {needed}",))
            load_configuration({name: (value,), needed: (other,)}, {}, None)
        file = self.file(f"database = '{url}'\ndatabase-listen = '{url}'")
        load_configuration({"data-dir": ("x",)}, {}, file)

    def test_max_stored(self) -> None:
        """max-stored requires data-dir."""
        (problem,) = self.refused({}, {"DURABLE_STREAMS_MAX_STORED": "1GiB"})
        self.assertIn("DURABLE_STREAMS_MAX_STORED: requires data-dir", problem)
        both = load_configuration(
            {"data-dir": ("x",)}, {"DURABLE_STREAMS_MAX_STORED": "1GiB"}, None
        )
        self.assertEqual(both.settings.max_stored, 1024**3)

    def test_max_body_memory(self) -> None:
        """max-body-memory must be at least max-body."""
        (problem,) = self.refused({}, {"DURABLE_STREAMS_MAX_BODY_MEMORY": "1MiB"})
        self.assertIn("DURABLE_STREAMS_MAX_BODY_MEMORY: must be at least max-body", problem)
        given = {"max-body-memory": ("1GiB",), "max-body": ("1GiB",)}
        self.assertEqual(load_configuration(given, {}, None).settings.body_memory, 1024**3)
        self.assertEqual(
            load_configuration({"max-body": ("1GiB",)}, {}, None).settings.body_memory, 1024**3
        )
        self.assertEqual(load_configuration({}, {}, None).settings.body_memory, 256 * 1024**2)

    def test_secrets(self) -> None:
        """Values of secret settings are not in error messages."""
        secret = Setting("secret", "", count, "N", redact=lambda text: "***")
        SETTINGS["secret"] = secret
        self.addCleanup(SETTINGS.pop, "secret")
        problems = self.refused({"secret": ("hunter2",)})
        self.assertEqual(problems, ("--secret: expected a number, or 0 for no limit, got '***'",))
        chosen = load_configuration({"secret": ("17",)}, {}, None)
        self.assertEqual(str(chosen.error("secret", "is wrong", "17")), "--secret '***': is wrong")

    def test_preset(self) -> None:
        """A preset has a lower precedence than options."""
        sources = [
            command_line({"port": ("1",)}),
            preset("dev", {"port": "2", "interface": "127.0.0.1"}),
        ]
        chosen = Configuration(sources)
        self.assertEqual((chosen["port"], chosen["interface"]), (1, "127.0.0.1"))
        self.assertEqual(chosen.origin("interface"), "dev")
        bad = self.assertRaises(ConfigurationError, Configuration, [preset("dev", {"port": "x"})])
        self.assertIn("dev: port", str(bad))

    def test_environment_only(self) -> None:
        """A configuration can have the environment as its only source."""
        chosen = Configuration([environment_variables({"DURABLE_STREAMS_TRUST_PROXY": "on"}, [])])
        self.assertIs(chosen.settings.trust_proxy, True)
