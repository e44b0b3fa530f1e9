"""Tests that reference pages of the docs are complete."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import durable_streams_tw
from durable_streams_tw import client
from durable_streams_tw.protocol.errors import Problem
from durable_streams_tw.service.settings_table import SETTINGS
from tests import limits_page, settings_page

_TOP = Path(__file__).parent.parent


class ReferenceTests(SynchronousTestCase):
    """Pages compared with the code."""

    def test_problems(self) -> None:
        """docs/protocol.md has every problem with its status and title, and no other."""
        page = (_TOP / "docs" / "protocol.md").read_text("utf-8")
        rows = re.findall(r"^\| `([a-z0-9-]+)` \| (\d+) \| (.+) \|$", page, re.MULTILINE)
        self.assertEqual(
            [(slug, int(status), title) for slug, status, title in rows],
            [(problem.slug, problem.status, problem.title) for problem in Problem],
        )

    def test_settings(self) -> None:
        """docs/configuration.md has the current list of settings."""
        page = settings_page.PAGE.read_text("utf-8")
        self.assertEqual(settings_page.listed(page), page)
        for name in SETTINGS:
            self.assertIn(f"\n#### {name}\n", page)

    def test_limits(self) -> None:
        """docs/limits.md is what `python -m tests.limits_page` writes, for every package."""
        self.assertEqual(limits_page.packages(), set(limits_page.PACKAGES))
        if limits_page.PAGE.read_text("utf-8") != limits_page.page():
            self.fail("docs/limits.md is outdated: run `python -m tests.limits_page`")
        # Readers do not know the names of constants.
        self.assertNotRegex(limits_page.page(), "`[A-Z_.]*[A-Z]_[A-Z]+`")

    def test_environment(self) -> None:
        """Environment variables in the manifests of docs/how-to/docker.md are settings."""
        page = (_TOP / "docs" / "how-to" / "docker.md").read_text("utf-8")
        named = set(re.findall(r"DURABLE_STREAMS_[A-Z_]+", page))
        self.assertGreater(len(named), 0)
        self.assertLessEqual(named, {setting.variable for setting in SETTINGS.values()})

    def test_readme(self) -> None:
        """Options that the README names exist."""
        page = (_TOP / "README.md").read_text("utf-8")
        named = set(re.findall(r"^\| `([a-z-]+)", page, re.MULTILINE))
        self.assertGreater(len(named), 3)
        self.assertLessEqual(named, set(SETTINGS))

    def test_api(self) -> None:
        """The API pages have an entry for each public name of their package, and no other."""
        for name, package in (("api", durable_streams_tw), ("client-api", client)):
            page = (_TOP / "docs" / f"{name}.md").read_text("utf-8")
            named = re.findall(r"^\.\. auto(?:class|exception):: (\w+)$", page, re.MULTILINE)
            self.assertEqual(sorted(named), sorted(package.__all__))
            for public in named:
                self.assertTrue(getattr(package, public).__doc__, public)
