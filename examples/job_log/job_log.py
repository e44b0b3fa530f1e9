"""Append the output of a command to a stream.

    durable-streams-server dev
    python examples/job_log/job_log.py http://localhost:4437/v1/stream/jobs/1 make all
    durable-streams-server tail jobs/1

Standard output and standard error are appended as they arrive, byte for byte, and the stream is
closed when the command ends, which ends its followers. If the server restarts meanwhile, nothing is
lost or appended twice: the program is an idempotent producer.

The exit status is that of the command.
"""

import sys

from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import react
from twisted.web.client import Agent

from durable_streams_tw.client.producer import Producer
from durable_streams_tw.client.streams import StreamClient
from durable_streams_tw.client.transport import Wire
from durable_streams_tw.client.urls import target_of

#: While so many bytes wait for the server, the command is not read: it waits too.
ENOUGH = 1024 * 1024
MOST = 256 * 1024


class Job(ProcessProtocol):
    """A command whose output is taken piece by piece."""

    def __init__(self):
        self._arrived = DeferredQueue()
        self._waiting = 0
        self.status = None

    async def take(self):
        """All output that has come and was not taken; None behind the last."""
        pieces = [await self._arrived.get()]
        while self._arrived.pending and pieces[-1] is not None:
            pieces.append(await self._arrived.get())
        if pieces[-1] is None and len(pieces) > 1:
            self._arrived.put(pieces.pop())
        if pieces == [None]:
            return None
        data = b"".join(pieces)
        self._waiting -= len(data)
        self._flow()
        return data

    def connectionMade(self):
        # It has nobody to talk to.
        self.transport.closeStdin()

    def childDataReceived(self, descriptor, data):
        self._waiting += len(data)
        self._arrived.put(data)
        self._flow()

    def processEnded(self, reason):
        code = reason.value.exitCode
        self.status = code if code is not None else 128 + (reason.value.signal or 0)
        self._arrived.put(None)

    def _flow(self):
        for pipe in self.transport.pipes.values():
            if hasattr(pipe, "pauseProducing"):
                if self._waiting > ENOUGH:
                    pipe.pauseProducing()
                else:
                    pipe.resumeProducing()


async def log(reactor, url, command):
    """Run a command into a stream. Gives its exit status."""
    client = StreamClient(Wire(Agent(reactor, connectTimeout=10), reactor), endure=None)
    target = target_of(url)
    await client.create(target, "text/plain")
    producer = Producer(client, target, "text/plain")
    job = Job()
    reactor.spawnProcess(job, command[0], command, env=None)
    while (data := await job.take()) is not None:
        for start in range(0, len(data), MOST):
            await producer.send(data[start : start + MOST])
    await producer.send(f"\n[exit status {job.status}]\n".encode(), close=True)
    return job.status


def main(reactor, *arguments):
    if len(arguments) < 2:
        sys.exit("usage: job_log.py URL COMMAND [ARGUMENT...]")
    url, *command = arguments
    done = Deferred.fromCoroutine(log(reactor, url, command))
    return done.addCallback(sys.exit)


if __name__ == "__main__":
    react(main, sys.argv[1:])
