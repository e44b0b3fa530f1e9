"""The PyPI client across a restart of the server: run once before it and once after.

RESTART_STATE is the file in which the first run saves offsets for the second.
"""

import json
import os
import unittest
from itertools import islice
from pathlib import Path
from typing import Any

from durable_streams import DurableStream, HeadersLike, stream

URL = f"{os.environ['STREAMS_URL']}pypi-restart"
STATE = Path(os.environ["RESTART_STATE"])
PHASE = os.environ["RESTART_PHASE"]
TIMEOUT = 10.0


def produce(sequence: int) -> str:
    """Send the message of a sequence number; return the next offset."""
    headers: HeadersLike = {
        "Producer-Id": "py",
        "Producer-Epoch": "3",
        "Producer-Seq": str(sequence),
    }
    with DurableStream(
        URL, headers=headers, content_type="application/json", timeout=TIMEOUT
    ) as handle:
        return handle.append({"sequence": sequence}).next_offset


class Restart(unittest.TestCase):
    """Acknowledged messages and saved offsets survive a restart."""

    @unittest.skipUnless(PHASE == "before", "the server has been restarted")
    def test_before(self) -> None:
        """Append messages and save an offset between them."""
        with DurableStream.create(URL, content_type="application/json", timeout=TIMEOUT):
            offsets = [produce(sequence) for sequence in range(10)]
        STATE.write_text(json.dumps({"offset": offsets[6], "tail": offsets[9]}))

    @unittest.skipUnless(PHASE == "after", "the server has not been restarted yet")
    def test_after(self) -> None:
        """Repeated messages are duplicates, and a read continues at the saved offset."""
        saved: dict[str, Any] = json.loads(STATE.read_text())
        with DurableStream.connect(URL, timeout=TIMEOUT) as handle:
            self.assertEqual(handle.head().offset, saved["tail"])
        for sequence in (9, 8, 10, 11):
            produce(sequence)
        with stream(URL, offset=saved["offset"], live="sse", timeout=TIMEOUT) as response:
            items = list(islice(response.iter_json(), 5))
        self.assertEqual(items, [{"sequence": n} for n in range(7, 12)])


if __name__ == "__main__":
    unittest.main()
