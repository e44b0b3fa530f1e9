"""Remote store over frames to a store in the same process, for the suites of all stores."""

from __future__ import annotations

from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from durable_streams_tw.storage.api import IStreamStore
from durable_streams_tw.storage.remote.server import StoreServer
from durable_streams_tw.storage.remote.store import RemoteStore
from tests.storage.remote.wire import Wire
from tests.storage.store_case import StoreCase

T = TypeVar("T")


class Everything(dict[int, int]):
    """Pins of a connection that is sent the changes of all streams, as the suites expect."""

    def __bool__(self) -> bool:
        return True

    def __contains__(self, stream_id: object) -> bool:
        return True


class RemoteCase(StoreCase):
    """Mixin before the case of another store, which is served to `store` over a `Wire`."""

    _wires: dict[RemoteStore, tuple[Wire, IStreamStore]]

    @property
    def owner(self) -> IStreamStore:
        return self._served(self.store)[1]

    def _served(self, store: IStreamStore) -> tuple[Wire, IStreamStore]:
        assert isinstance(store, RemoteStore)
        return self._wires[store]

    def make_store(self) -> Any:
        self._wires = {}
        return self._serve(super().make_store())

    def _serve(self, owner: IStreamStore) -> RemoteStore:
        clock = Clock()
        wire = Wire(StoreServer(owner, clock), clock)
        store = RemoteStore(clock, wire)
        self._wires[store] = wire, owner
        store.open()
        wire.settle()
        (end,) = wire.owners
        end.protocol.pinned = Everything()
        return store

    def sleep(self, seconds: float) -> None:
        for wire, _ in self._wires.values():
            wire.settle()
        super().sleep(seconds)

    def reopen(self, store: IStreamStore) -> IStreamStore:
        _, owner = self._served(store)
        again = super().reopen(owner)
        return store if again is owner else self._serve(again)

    def sweep(self, store: IStreamStore) -> None:
        wire, owner = self._served(store)
        wire.settle()
        super().sweep(owner)
        wire.settle()

    def settle(self, store: IStreamStore) -> None:
        if not isinstance(store, RemoteStore):
            super().settle(store)
            return
        wire, owner = self._served(store)
        wire.settle()
        super().settle(owner)
        wire.settle()

    def result(self, deferred: Deferred[T]) -> T:
        executor: Any = getattr(self, "executor", None)
        wires = [wire for wire, _ in self._wires.values()]
        while not deferred.called:
            moved = [wire.turn() for wire in wires]
            if not any(moved):
                if executor is None or not executor.busy:
                    break
                executor.turn()
        return super().result(deferred)

    def finish(self) -> None:
        owner = self.owner
        self.settle(self.store)
        self.result(self.store.close())
        self.store = owner
        super().finish()
