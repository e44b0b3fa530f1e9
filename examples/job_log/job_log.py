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

from durable_streams_tw.client import RetryPolicy, StreamClient

#: Unread bytes above which the output of the command is not read, so that the command waits.
ENOUGH = 1024 * 1024


class Job(ProcessProtocol):
    """Command whose output is read piece by piece."""

    def __init__(self):
        self._arrived = DeferredQueue()
        self._waiting = 0
        self.status = None

    async def take(self):
        """Return the next output, None at its end."""
        data = await self._arrived.get()
        self._waiting -= len(data or b"")
        self._flow()
        return data

    def connectionMade(self):
        # The command has no input.
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
    """Append the output of a command to a stream, and return its exit status."""
    async with StreamClient(retry=RetryPolicy(retry_for=None)) as client:
        stream = client.stream(url)
        await stream.create("text/plain")
        async with stream.producer() as producer:
            job = Job()
            reactor.spawnProcess(job, command[0], command, env=None)
            while (data := await job.take()) is not None:
                await producer.append(data)
            await producer.close(f"\n[exit status {job.status}]\n")
        return job.status


def main(reactor, *arguments):
    if len(arguments) < 2:
        sys.exit("usage: job_log.py URL COMMAND [ARGUMENT...]")
    url, *command = arguments
    done = Deferred.fromCoroutine(log(reactor, url, command))
    return done.addCallback(sys.exit)


if __name__ == "__main__":
    react(main, sys.argv[1:])
