"""Names in order, in memory."""

from __future__ import annotations

from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.memory import sorted_names
from durable_streams_tw.storage.memory.sorted_names import SortedNames

_NAMES = st.text("ab/é", min_size=1, max_size=4)


class OrderedNamesTests(SynchronousTestCase):
    """Runs that grow, are halved, and become empty."""

    @given(st.sets(_NAMES), st.lists(_NAMES), _NAMES)
    def test_as_a_sorted_set(self, first: set[str], then: list[str], after: str) -> None:
        """Whatever is added and removed, what is left comes in order."""
        with mock.patch.object(sorted_names, "_LARGEST", 4):
            names, left = SortedNames(first), set(first)
            for name in then:
                if name in left:
                    names.remove(name)
                else:
                    names.add(name)
                left ^= {name}
                self.assertEqual(list(names.following("", "")), sorted(left))
                self.assertTrue(all(len(run) <= 4 for run in names._runs))
            behind = [name for name in sorted(left) if name > after]
            self.assertEqual(list(names.following("", after)), behind)
            matching = [name for name in sorted(left) if name.startswith(after)]
            self.assertEqual(list(names.following(after, "")), matching)
