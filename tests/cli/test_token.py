"""Tests of ``token``."""

from __future__ import annotations

import tomllib

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.auth.grants import Verb
from durable_streams_tw.auth.token_file import read_table
from durable_streams_tw.cli.token import token


class TokenTests(SynchronousTestCase):
    """Output of ``token``."""

    def make(self, *arguments: str) -> Result:
        """Run the command."""
        return CliRunner().invoke(token, arguments)

    def test_entry(self) -> None:
        """Entries can be appended to a token file, and match the printed tokens."""
        made = [
            self.make("worker", "--grant", "read,append:jobs", "--grant", "metrics"),
            self.make('odd "name"', "--grant", "read", "--expires", "2030-01-31T12:00:00Z"),
        ]
        self.assertEqual([one.exit_code for one in made], [0, 0])
        shown = [one.stderr.splitlines()[-1] for one in made]
        text = "".join(one.stdout for one in made)
        table = read_table(text.encode(), b"k")
        self.assertEqual(len(tomllib.loads(text)["tokens"]), 2)
        for secret in shown:
            self.assertNotIn(secret, text)
        worker, odd = (table.find(secret, 0) for secret in shown)
        assert worker is not None and odd is not None
        self.assertTrue(worker.grants.allow(Verb.APPEND, "jobs/1"))
        self.assertFalse(worker.grants.allow(Verb.APPEND, "other"))
        self.assertTrue(worker.grants.allow(Verb.METRICS, "any"))
        self.assertEqual((odd.name, odd.expires_at), ('odd "name"', 1896091200.0))
        self.assertNotEqual(*shown)

    def test_refused(self) -> None:
        """Invalid arguments print no entry."""
        for arguments in (
            ("--grant", "write:jobs"),
            ("--grant", "read:/jobs"),
            ("--grant", ":jobs"),
            (),
            ("--grant", "read", "--expires", "2030-01-31T12:00:00"),
            ("--grant", "read", "--expires", "tomorrow"),
        ):
            result = self.make("worker", *arguments)
            self.assertEqual(result.exit_code, 2, arguments)
            self.assertEqual(result.stdout, "")
