"""Test of the modules that the template imports for workers."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.service.black_box import run_python

_PROGRAM = """
import sys
from durable_streams_tw.service.configuration import Configuration
from durable_streams_tw.service.sources import command_line
from durable_streams_tw.service.workers import template
from durable_streams_tw.service.workers.messages import Assignment
from durable_streams_tw.service.workers.supervisor import worker_modules

given = {"workers": ("2",), "data-dir": (sys.argv[1],), "console": ("true",), "tracing": ("true",)}
modules = worker_modules(Configuration([command_line(given)]))
template._import("twisted.internet.selectreactor", *modules)
known = set(sys.modules)

from twisted.internet import reactor
from durable_streams_tw.service.workers.roles import assume

for role in ("owner", "front"):
    assume(Assignment(role, given, ".", ".", "socket", 0, (), 2, (), True), reactor, print)
from durable_streams_tw.subscriptions.delivery import _detail
_detail(ValueError())
print(*(name for name in set(sys.modules) - known if name.startswith("durable_streams_tw")))
"""


class TemplateTests(SynchronousTestCase):
    def test_modules(self) -> None:
        """A worker imports no module of the server, whose files may be of a later version."""
        done = run_python(_PROGRAM, self.mktemp())
        self.assertEqual((done.stdout.split(), done.stderr), ([], ""))
