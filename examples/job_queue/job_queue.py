"""Count the words of texts with any number of workers, each text once.

    durable-streams-server create wake/jobs -t application/json
    durable-streams-server sub create jobs --pattern 'jobs/*' --wake-stream wake/jobs
    python examples/job_queue/job_queue.py http://localhost:4437/v1/stream/

A job is a stream below ``jobs/`` with a text, and its result is written to a stream below
``results/``, which is closed then. Run this program several times, also on other machines and at
other servers of the same database: the server gives each job to one of them. If that one is killed,
another one gets the job when the lease has expired.
"""

import sys
from collections import Counter
from contextlib import suppress

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from durable_streams_tw.client import PullWakeWorker, StreamClient, StreamClosed


async def work(url):
    """Count the words of the jobs below a URL for ever."""
    async with StreamClient(url) as client:

        async def handle(wake):
            for job in wake.streams:
                words = Counter((await job.stream.read_text()).split())
                lines = "".join(f"{count} {word}\n" for word, count in words.most_common())
                result = client.stream(job.path.replace("jobs/", "results/", 1))
                # A job that is done again after a crash has its result already.
                with suppress(StreamClosed):
                    await result.close(lines)
                print(f"{job.path}: {words.total()} words", flush=True)

        await PullWakeWorker(client, "jobs", "wake/jobs", handle).run()


def main(reactor, *arguments):
    if len(arguments) != 1:
        sys.exit("usage: job_queue.py URL")
    return Deferred.fromCoroutine(work(*arguments))


if __name__ == "__main__":
    react(main, sys.argv[1:])
