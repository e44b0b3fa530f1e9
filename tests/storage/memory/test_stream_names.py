"""Stream names of the memory store, in listing order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.memory.store import MemoryStore
from tests.storage import command_builders as commands
from tests.storage.store_case import put

_NAMES = st.text("ab/é", min_size=1, max_size=4)


class StreamNamesTests(SynchronousTestCase):
    """`MemoryStore.stream_names` returns a sorted range of names."""

    @given(st.sets(_NAMES), st.lists(_NAMES), _NAMES)
    def test_like_a_sorted_set(self, first: set[str], changed: list[str], bound: str) -> None:
        """Names stay in order while streams are created and deleted."""
        store = MemoryStore(lambda: 0)
        for name in first:
            store.submit(put(name))
        left = set(first)
        list(store.stream_names(""))
        for name in changed:
            store.submit(commands.delete(name) if name in left else put(name))
            left ^= {name}
            self.assertEqual(list(store.stream_names("")), sorted(left))
        after = [name for name in sorted(left) if name > bound]
        self.assertEqual(list(store.stream_names("", bound)), after)
        matching = [name for name in sorted(left) if name.startswith(bound)]
        self.assertEqual(list(store.stream_names(bound)), matching)
