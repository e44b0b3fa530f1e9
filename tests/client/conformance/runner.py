"""Runner of the public suite of clients: operations of a case, and checks of their results.

The suite's own runner is a Node program. Cases, commands and results are the same here; faults are
injected by a proxy in front of the server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import treq
import yaml
from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.client.conformance.adapter import FEATURES, Adapter, Result, compact, suite_name
from tests.client.fault_proxy import Fault, FaultProxy

#: Seconds after which a command of the adapter has failed.
COMMAND_SECONDS = 30.0


class Case(Struct, frozen=True):
    """Case of the suite; ``id`` is unique in all files. ``requires`` are features of a client."""

    id: str
    requires: tuple[str, ...]
    setup: list[dict[str, Any]]
    operations: list[dict[str, Any]]


class CaseFailed(Exception):
    """Result that is not the expected one."""


def load_cases(folder: Path) -> Iterator[Case]:
    """Yield the cases of all files below a folder."""
    for path in sorted(folder.rglob("*.yaml")):
        suite = yaml.safe_load(path.read_text("utf-8"))
        for test in suite["tests"]:
            yield Case(
                f"{suite['id']}/{test['id']}",
                (*suite.get("requires", ()), *test.get("requires", ())),
                test.get("setup") or [],
                test["operations"],
            )


class Faults:
    """Faults that cases have injected, by path."""

    def __init__(self) -> None:
        self._faults: dict[str, tuple[int, str | None, Fault]] = {}

    def inject(self, path: str, operation: dict[str, Any]) -> None:
        """Apply a fault to the next requests of a path."""
        assert operation.get("probability", 1) == 1, "faults at random are not reproducible"
        event = operation.get("injectSseEvent")
        fault = Fault(
            delay=(operation.get("delayMs", 0) + operation.get("jitterMs", 0) / 2) / 1000,
            status=operation.get("status"),
            retry_after=operation.get("retryAfter"),
            drop=operation.get("dropConnection", False),
            truncate=operation.get("truncateBodyBytes"),
            corrupt=operation.get("corruptBody", False),
            event=f"event: {event['eventType']}\ndata: {event['data']}\n\n".encode()
            if event
            else b"",
        )
        self._faults[path] = (operation.get("count", 1), operation.get("method"), fault)

    def choose(self, method: str, path: str) -> Fault | None:
        """Return the fault of a request and count it."""
        left, only, fault = self._faults.get(path, (0, None, None))
        if not left or only not in (None, method):
            return None
        self._faults[path] = (left - 1, only, fault or Fault())
        return fault


class Run:
    """One run of a case, with an adapter of its own.

    `run` raises `CaseFailed`.
    """

    def __init__(self, reactor: Any, proxy: FaultProxy, faults: Faults) -> None:
        self._reactor = reactor
        self._faults = faults
        # Requests of the runner itself go to the server directly, without faults.
        self._server = f"http://127.0.0.1:{proxy.server_port}"
        self._adapter = Adapter(f"http://127.0.0.1:{proxy.port}/", reactor)
        self._variables: dict[str, Any] = {}
        self._background: dict[str, Deferred[Result]] = {}

    async def run(self, case: Case) -> None:
        """Carry out the operations and check their results."""
        missing = [name for name in case.requires if name not in FEATURES]
        if missing:
            raise CaseFailed(f"features that the adapter does not have: {missing}")
        try:
            for operation in case.setup:
                await self._operate(operation)
            for operation in case.operations:
                result = await self._operate(operation)
                if result is not None and "expect" in operation:
                    check(result, operation["expect"])
        finally:
            await self._adapter.close()

    async def _operate(self, operation: dict[str, Any]) -> Result | None:
        action = operation["action"]
        local = getattr(self, "_" + action.replace("-", "_"), None)
        if local is not None:
            done: Result | None = await local(operation)
            return done
        command = {name: self._filled(value) for name, value in operation.items()}
        command["type"] = action
        if action == "create" and "path" not in command:
            command["path"] = f"/test-stream-{uuid4()}"
            if "as" in command:
                self._variables[command["as"]] = command["path"]
        if "json" in command:
            command["data"] = compact(command["json"])
        if "binaryData" in command:
            command.update(data=command["binaryData"], binary=True)
        if action == "append":
            command.setdefault("data", "")
        if action.startswith("idempotent"):
            command = {"epoch": 0, "autoClaim": False, **command}
            command["items"] = [item["data"] for item in command.get("items", ())]
        if command.get("background"):
            self._background[command["as"]] = self._send(command)
            return None
        result = await self._send(command)
        self._store(result, operation.get("expect") or {})
        return result

    def _send(self, command: dict[str, Any]) -> Deferred[Result]:
        sent = Deferred.fromCoroutine(self._adapter.carry_out(command))
        sent.addTimeout(COMMAND_SECONDS, self._reactor)
        return sent

    def _store(self, result: Result, expect: dict[str, Any]) -> None:
        if not result["success"]:
            return
        if "storeOffsetAs" in expect:
            self._variables[expect["storeOffsetAs"]] = result.get("offset", "")
        if "storeDataAs" in expect:
            self._variables[expect["storeDataAs"]] = _data(result)
        if "storeAs" in expect:
            self._variables[expect["storeAs"]] = result

    def _filled(self, value: Any) -> Any:
        """Return a value with the variables in its texts replaced."""
        if isinstance(value, list):
            return [self._filled(one) for one in value]
        if isinstance(value, dict):
            return {name: self._filled(one) for name, one in value.items()}
        if not isinstance(value, str):
            return value
        return re.sub(r"\$\{([^}]+)\}", lambda match: self._variable(match[1]), value)

    def _variable(self, expression: str) -> str:
        if expression == "randomUUID":
            return str(uuid4())
        name, *fields = expression.split(".")
        found = self._variables[name]
        for field in fields:
            found = found[field]
        return str(found)

    # -- operations that do not concern the client ----------------------------------------------

    async def _append_batch(self, operation: dict[str, Any]) -> Result:
        results = [
            await self._operate({**operation, **item, "action": "append", "expect": {}})
            for item in operation["items"]
        ]
        items = [result is not None and result["success"] for result in results]
        return {"type": "append", "success": all(items), "items": items}

    async def _server_append(self, operation: dict[str, Any]) -> Result:
        path = self._filled(operation["path"])
        head = await treq.head(self._server + path, persistent=False)
        headers = {
            "Content-Type": head.headers.getRawHeaders("content-type", ["text/plain"])[0],
            **operation.get("headers", {}),
        }
        for name, field in (("Id", "producerId"), ("Epoch", "producerEpoch")):
            if field in operation:
                headers[f"Producer-{name}"] = str(operation[field])
        if "producerSeq" in operation:
            headers["Producer-Seq"] = str(operation["producerSeq"])
        result = await self._post(path, self._filled(operation["data"]), headers)
        self._store(result, operation.get("expect") or {})
        return result

    async def _server_close(self, operation: dict[str, Any]) -> Result:
        headers = {"Stream-Closed": "true", **operation.get("headers", {})}
        if "contentType" in operation:
            headers["Content-Type"] = operation["contentType"]
        return await self._post(self._filled(operation["path"]), operation.get("data", ""), headers)

    async def _post(self, path: str, data: str, headers: Any) -> Result:
        response = await treq.post(
            self._server + path, data.encode(), headers=headers, persistent=False
        )
        await response.content()
        result: Result = {
            "type": "append",
            "success": True,
            "status": response.code,
            "duplicate": response.code == 204,
        }
        for field, name in (
            ("offset", "stream-next-offset"),
            ("finalOffset", "stream-next-offset"),
            ("producerEpoch", "producer-epoch"),
            ("producerSeq", "producer-seq"),
            ("producerExpectedSeq", "producer-expected-seq"),
            ("producerReceivedSeq", "producer-received-seq"),
        ):
            for value in response.headers.getRawHeaders(name, []):
                result[field] = int(value) if field.startswith("producer") else value
        return result

    async def _wait(self, operation: dict[str, Any]) -> None:
        await deferLater(self._reactor, operation["ms"] / 1000)

    async def _set(self, operation: dict[str, Any]) -> None:
        self._variables[operation["name"]] = self._filled(operation["value"])

    async def _await(self, operation: dict[str, Any]) -> Result:
        result = await self._background.pop(operation["ref"])
        self._store(result, operation.get("expect") or {})
        return result

    async def _inject_error(self, operation: dict[str, Any]) -> None:
        self._faults.inject(self._filled(operation["path"]), operation)

    async def _assert(self, operation: dict[str, Any]) -> None:
        given = self._filled(operation)
        for name, holds in (
            ("equals", lambda one: one["left"] == one["right"]),
            ("notEquals", lambda one: one["left"] != one["right"]),
            ("contains", lambda one: one["substring"] in one["value"]),
            ("matches", lambda one: re.search(one["pattern"], one["value"])),
        ):
            if name in given and not holds(given[name]):
                raise CaseFailed(f"{name}: {given[name]}")


def _data(result: Result) -> str:
    return "".join(chunk["data"] for chunk in result["chunks"])


# Expectations that are equal to a field of the result.
_EQUAL = (
    *("status", "upToDate", "streamClosed", "finalOffset", "contentType", "duplicate"),
    *("producerEpoch", "producerSeq", "producerExpectedSeq", "producerReceivedSeq"),
)
_STORED = ("storeAs", "storeOffsetAs", "storeDataAs")


def check(result: Result, expect: dict[str, Any]) -> None:
    """Compare a result with the expectation of an operation. Raises `CaseFailed`."""
    for name, wanted in expect.items():
        if name not in _STORED:
            found = _found(name, wanted, result)
            if found is not None:
                raise CaseFailed(f"{name}: expected {wanted!r}, got {found!r} in {result!r}")


def _found(name: str, wanted: Any, result: Result) -> Any:
    """Return what contradicts an expectation, None if nothing does."""
    succeeded = result["success"]
    if name in ("success", "allSucceed", "valid"):
        return None if succeeded == wanted else succeeded
    if name in ("succeedIndices", "failIndices"):
        matching = [at for at, item in enumerate(result["items"]) if item != (name[0] == "f")]
        return None if matching == wanted else matching
    if name == "error":
        return None if succeeded != wanted else succeeded
    if name == "errorCode":
        return None if result.get("errorCode") == wanted else result.get("errorCode", "no error")
    if name == "messageContains":
        message = str(result.get("message", "")).lower()
        return None if all(part.lower() in message for part in wanted) else message
    if name == "errorContains":
        # The names of arguments are ours in messages.
        named = suite_name(result.get("argument") or "")
        return None if wanted == named else named
    if name in _EQUAL:
        # A field that the operation does not report is not compared, as in the suite's runner.
        reported = name in result and (name == "status" or succeeded)
        return None if not reported or result[name] == wanted else result[name]
    if name in ("headersSent", "paramsSent"):
        sent = result.get(name, {})
        return None if all(sent.get(key) == value for key, value in wanted.items()) else sent
    if name == "hasOffset":
        return None if bool(result.get("offset")) == wanted else result.get("offset")
    if not succeeded:
        # A case may leave it open whether the server refuses an offset or has nothing there.
        return None if (name, wanted) == ("chunkCount", 0) else result["message"]
    return _found_in_chunks(name, wanted, result)


def _found_in_chunks(name: str, wanted: Any, result: Result) -> Any:
    data, count = _data(result), len(result["chunks"])
    found: Any = data
    if name == "data":
        holds = data == wanted
    elif name == "dataContains":
        holds = wanted in data
    elif name == "dataContainsAll":
        holds = all(part in data for part in wanted)
    elif name == "dataExact":
        found = [chunk["data"] for chunk in result["chunks"]]
        holds = found == wanted
    else:
        found = count
        holds = {
            "chunkCount": count == wanted,
            "minChunks": count >= wanted,
            "maxChunks": count <= wanted,
        }[name]
    # Empty data contradict too.
    return None if holds else (found or "nothing")
