"""Stream the tokens of a language model into a page that resumes after a reload.

    python examples/llm_tokens/app.py          and open http://127.0.0.1:8080/

Each answer is appended to a stream while the model produces it, so a reader that reconnects, starts
late or uses another device reads the same answer. This app serves the streams below /streams/; with
DurableStreams("./data") they also survive a restart.

Replace `model` with the streaming call of your client.
"""

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

from klein import Klein
from twisted.internet import endpoints, reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver
from twisted.web.server import Site

from durable_streams_tw import DurableStreams, StreamRequest

PAUSE = 0.15
PAGE = Path(__file__).with_name("page.html").read_bytes()

app = Klein()
log = Logger()
streams = DurableStreams()
streams_resource = streams.resource()


async def model(question: str) -> AsyncIterator[str]:
    """The tokens of an answer, as they come."""
    answer = f"You asked: {question} A stream keeps each of my words, so you may reload this page."
    for word in answer.split(" "):
        await deferLater(reactor, PAUSE)
        yield word + " "


async def answer(name: str, question: str) -> None:
    """Write an answer to its stream, and close it: that is how a reader knows its end."""
    try:
        async for token in model(question):
            await streams.append(name, json.dumps({"token": token}))
        await streams.close(name)
    except Exception:  # noqa: BLE001 - whatever a model may fail with, the reader is told
        log.failure("the answer {name} is incomplete", name=name)
        await streams.append(name, json.dumps({"error": "the model has failed"}), close=True)


@app.route("/", methods=["GET"])
def page(request):
    request.setHeader(b"Content-Type", b"text/html; charset=utf-8")
    return PAGE


@app.route("/ask", methods=["POST"])
async def ask(request):
    """Begin an answer. Says which stream it will be in."""
    name = f"answers/{uuid4()}"
    await streams.create(name, "application/json", ttl=24 * 3600)
    # Not awaited: the answer is written whether or not the one who asked is still there.
    Deferred.fromCoroutine(answer(name, request.content.read(10_000).decode("utf-8", "replace")))
    request.setHeader(b"Content-Type", b"application/json")
    return json.dumps({"stream": f"/streams/{name}"}).encode()


@app.route("/streams/", branch=True)
def mounted(request):
    return streams_resource


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    streams.startService()
    reactor.addSystemEventTrigger("before", "shutdown", streams.stopService)
    site = Site(app.resource(), requestFactory=StreamRequest)
    listening = endpoints.serverFromString(reactor, f"tcp:{port}:interface=127.0.0.1").listen(site)
    listening.addCallback(
        lambda at: print(f"Open http://127.0.0.1:{at.getHost().port}/", flush=True)
    )
    reactor.run()


if __name__ == "__main__":
    main()
