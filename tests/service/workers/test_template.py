"""Test of the modules that the template imports for workers."""

from __future__ import annotations

from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.service.workers.parent import ADOPTS_ORPHANS
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


# The first process takes the worker when the second, its supervisor, has killed itself.
_SUSPENDED_WORKER = """
import os, signal, socket, time
from durable_streams_tw.service.workers.parent import adopt_orphans
from durable_streams_tw.service.workers.template import fork_workers

adopt_orphans()
read, write = os.pipe()
if not os.fork():
    adopt_orphans()
    ours, theirs = socket.socketpair()
    if not os.fork():
        ours.close()
        pair = fork_workers(theirs)
        if pair is not None:
            pair.send(b"%d" % os.getpid())
            os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    ends = socket.socketpair()
    socket.send_fds(ours, [b"0"], [ends[1].fileno()])
    worker = int(ends[0].recv(20))
    os.waitid(os.P_PID, worker, os.WSTOPPED)
    os.write(write, b"%d" % worker)
    os.kill(os.getpid(), signal.SIGKILL)
worker = int(os.read(read, 20))
for _ in range(500):
    try:
        ended, status = os.waitpid(worker, os.WNOHANG)
    except ChildProcessError:
        ended = 0
    if ended:
        print("ended by signal", os.WTERMSIG(status))
        break
    time.sleep(0.02)
else:
    os.kill(worker, signal.SIGKILL)
"""

# A byte without a descriptor: the kernel drops a descriptor for which there is no room.
_LOST_DESCRIPTOR = """
import os, socket
from durable_streams_tw.service.workers.template import fork_workers

ours, theirs = socket.socketpair()
ours.send(b"0")
read, write = socket.socketpair()
socket.send_fds(ours, [b"0"], [write.fileno()])
write.close()
ours.close()
pair = fork_workers(theirs)
if pair is not None:
    pair.send(b"forked")
    os._exit(0)
theirs.close()
print(read.recv(20).decode())
"""


class TemplateTests(SynchronousTestCase):
    def test_modules(self) -> None:
        """A worker imports no module of the server, whose files may be of a later version."""
        done = run_python(_PROGRAM, self.mktemp())
        self.assertEqual((done.stdout.split(), done.stderr), ([], ""))

    def test_suspended_worker(self) -> None:
        """A worker that is suspended before it begins to run ends with its supervisor."""
        if not ADOPTS_ORPHANS:
            raise SkipTest("the system sends no signal to the children of a process that ends")
        done = run_python(_SUSPENDED_WORKER)
        self.assertEqual((done.stdout, done.stderr), ("ended by signal 9\n", ""))

    def test_lost_descriptor(self) -> None:
        """A template that receives no descriptor does not take its supervisor for ended."""
        done = run_python(_LOST_DESCRIPTOR)
        self.assertEqual((done.stdout, done.stderr), ("forked\n", ""))
