"""Host name resolver with threads of its own.

`socket.getaddrinfo` blocks for as long as a name server likes, tens of seconds, and cannot be
interrupted. In the reactor's thread pool, ten such names would occupy all threads.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from threading import Thread
from typing import Any

from twisted.internet import interfaces
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from zope.interface import directlyProvides, implementer, providedBy

from durable_streams_tw.clocks import monotonic_timers
from durable_streams_tw.datastructures.bounded_cache import BoundedCache
from durable_streams_tw.outgoing import limits
from durable_streams_tw.outgoing.fair_limiter import FairLimiter, Slot

_log = Logger()


class TooManyLookups(Exception):
    """Too many names wait to be looked up."""


Ask = Callable[[str, Callable[[list[str]], None]], None]
"""Look up a name without blocking the caller, and call the function once with the addresses.

The function is called on any thread. Raise RuntimeError if no thread can be started.
"""


def look_up_in_thread(name: str, on_result: Callable[[list[str]], None]) -> None:
    """Ask the operating system, in a new thread that does not keep the process alive."""

    def run() -> None:
        try:
            addresses = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            found = [str(address[0]) for *_, address in addresses]
        except (OSError, UnicodeError):
            # No address, no name server, or a label that no name may have.
            found = []
        on_result(found)

    Thread(target=run, name="durable-streams-resolve", daemon=True).start()


@dataclass(slots=True, eq=False)
class _Lookup:
    """Lookup in progress, and the Deferreds that wait for it."""

    began: float = 0.0
    slot: Slot | Deferred[Slot] | None = None
    waiting: dict[Deferred[list[str]], None] = field(default_factory=dict)


class Resolver:
    """Resolver of host names with at most `RESOLVER_THREADS` threads.

    Concurrent lookups of one name share a thread, and results are used again for
    `RESOLVER_CACHE` seconds. Cancelling fails the caller's Deferred at once; the thread runs until
    the name server responds. Names of one domain use at most `RESOLVER_SHARE` threads, and
    `RESOLVER_RESERVED` are reserved for names that were resolved promptly last time.

    ``ask`` replaces the operating system in tests.
    """

    def __init__(self, reactor: Any, ask: Ask = look_up_in_thread) -> None:
        self._reactor = reactor
        self._timers = monotonic_timers(reactor)
        self._ask = ask
        self._limiter = FairLimiter(
            limits.RESOLVER_THREADS,
            limits.RESOLVER_SHARE,
            limits.RESOLVER_RESERVED,
            limits.RESOLVER_REMEMBERED,
        )
        self._lookups: dict[str, _Lookup] = {}
        # Addresses, and the time of their lookup.
        self._found: BoundedCache[str, tuple[float, list[str]]] = BoundedCache(
            limits.RESOLVER_REMEMBERED
        )

    def resolve(self, name: str) -> Deferred[list[str]]:
        """Return the addresses of a name as text, an empty list if it has none.

        Fails with `TooManyLookups` while `MAX_LOOKUPS` names are being looked up.
        """
        if _is_address(name):
            return succeed([name])
        known = self._found.get(name)
        if known is not None and self._timers.seconds() - known[0] < limits.RESOLVER_CACHE:
            return succeed(list(known[1]))
        lookup = self._lookups.get(name)
        if lookup is None:
            if len(self._lookups) >= limits.MAX_LOOKUPS and not self._limiter.is_prompt(name):
                return fail(TooManyLookups("too many host names are being looked up"))
            lookup = self._lookups[name] = _Lookup()
            self._begin(name, lookup)
        waiting: Deferred[list[str]] = Deferred(lambda waiting: self._leave(name, waiting))
        lookup.waiting[waiting] = None
        return waiting

    def _begin(self, name: str, lookup: _Lookup) -> None:
        on_result = partial(self._reactor.callFromThread, self._end, name, lookup)

        def start(slot: Slot) -> None:
            lookup.slot = slot
            lookup.began = self._timers.seconds()
            try:
                self._ask(name, on_result)
            except RuntimeError as error:
                _log.error("Could not look up {name}: {error}", name=name, error=error)
                on_result([])

        lookup.slot = entered = self._limiter.enter(name)
        # Fails only when `_leave` cancels it.
        entered.addCallbacks(start, lambda _: None)

    def _leave(self, name: str, waiting: Deferred[list[str]]) -> None:
        lookup = self._lookups[name]
        del lookup.waiting[waiting]
        if not lookup.waiting and isinstance(lookup.slot, Deferred):
            # No thread has begun.
            del self._lookups[name]
            lookup.slot.cancel()

    def _end(self, name: str, lookup: _Lookup, found: list[str]) -> None:
        now = self._timers.seconds()
        assert isinstance(lookup.slot, Slot), "a lookup has a slot when it begins"
        del self._lookups[name]
        self._found.put(name, (now, found))
        self._limiter.leave(
            lookup.slot, prompt=bool(found) and now - lookup.began <= limits.RESOLVER_PROMPT
        )
        waiting, lookup.waiting = lookup.waiting, {}
        for one in waiting:
            one.callback(list(found))


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


@implementer(interfaces.IHostnameResolver)
class HostnameResolver:
    """Adapter of `Resolver` to Twisted's endpoints."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    def resolveHostName(
        self,
        resolutionReceiver: interfaces.IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[interfaces.IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> interfaces.IHostResolution:
        """Look up a name. A failure results in no addresses."""
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)

        transport: Any = transportSemantics

        def found(addresses: list[str]) -> None:
            for text in addresses:
                kind = IPv6Address if ":" in text else IPv4Address
                if addressTypes is None or kind in addressTypes:
                    resolutionReceiver.addressResolved(kind(transport, text, portNumber))

        resolution.wait = self._resolver.resolve(hostName)
        resolution.wait.addCallback(found).addErrback(lambda _: None).addCallback(
            lambda _: resolutionReceiver.resolutionComplete()
        )
        return resolution


@implementer(interfaces.IHostResolution)
class _Resolution:
    def __init__(self, name: str) -> None:
        self.name = name
        self.wait: Deferred[Any] | None = None

    def cancel(self) -> None:
        """Stop waiting for the lookup."""
        if self.wait is not None:
            self.wait.cancel()


class ResolvingReactor:
    """Proxy of a reactor with another name resolver, for Twisted's `Agent`."""

    def __init__(self, reactor: Any, resolver: Resolver) -> None:
        self._reactor = reactor
        self.nameResolver = HostnameResolver(resolver)
        directlyProvides(self, providedBy(reactor), interfaces.IReactorPluggableNameResolver)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)
