"""The client in asyncio programs, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

from twisted.trial.unittest import SynchronousTestCase

from tests.service.black_box import PATIENCE, Foreground, environment, new_directory

PROGRAM = """
import asyncio
import sys

from durable_streams_tw.client import ClientError, StreamClient

asked = []


async def token():
    await asyncio.sleep(0.01)
    asked.append(len(asked))
    return "any"


async def main():
    async with StreamClient(sys.argv[1], token=token) as client:
        stream = client.stream("s")
        await stream.create("application/json")
        async with stream.producer("p", linger=0.01, max_in_flight=2) as producer:
            deliveries = [await producer.append_json(number) for number in range(50)]
        assert all([await delivery for delivery in deliveries])
        assert await stream.read_json() == list(range(50))
        # Appends of one stream run one after the other, in the order of the calls.
        await asyncio.gather(*(stream.append_json(number) for number in range(50, 60)))
        assert await stream.read_json() == list(range(60))
        seen = []

        async def follow():
            async for batch in stream.follow():
                seen.extend(batch.json())

        following = asyncio.create_task(follow())
        await stream.append_json("last")
        while "last" not in seen:
            await asyncio.sleep(0.01)
        following.cancel()
        try:
            await following
        except asyncio.CancelledError:
            pass
        assert seen == [*range(60), "last"]
        try:
            async with asyncio.timeout(0.2):
                async for _ in stream.follow("now", live="long-poll"):
                    pass
        except TimeoutError:
            pass
        else:
            raise AssertionError("the follower has ended")
        await stream.close()
        try:
            await stream.append_json("late")
        except ClientError as error:
            print(error.status)
    assert len(asked) > 5, asked


asyncio.run(main())
try:
    asyncio.run(main())
except RuntimeError as error:
    print("one event loop" in str(error) or str(error))
"""


class AsyncioTests(SynchronousTestCase):
    """Client in a program of asyncio, against the real service."""

    def test_program(self) -> None:
        """Methods, producers, followers, cancelling and time limits work in tasks of asyncio."""
        here = new_directory(self)
        program = [sys.executable, "-X", "dev", "-c", dedent(PROGRAM)]
        with Foreground(here, "durable-streams", "--interface=127.0.0.1", "--port=0") as server:
            done = subprocess.run(
                [*program, f"http://127.0.0.1:{server.port}/v1/stream/"],
                env=environment(),
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stderr)
        status, message = done.stdout.splitlines()
        self.assertEqual(status, "409")
        self.assertIn("does not run on this event loop", message)
