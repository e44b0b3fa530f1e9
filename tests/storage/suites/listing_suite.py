"""Suite: listing of streams."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.commands import Create, Delete, ForkRequest
from durable_streams_tw.protocol.streams.state import NO_EXPIRY, Lifetime
from durable_streams_tw.storage.engine.codec import listing_key
from durable_streams_tw.storage.queries import ListStreams, Page
from tests.storage.store_case import StoreCase, put

# Names with common prefixes, of lengths around each at which a key changes its form.
_HEADS = ("", "a", "a" * 439, "a" * 440, "é" * 220, "a" * 439 + "é")
_TAILS = ("", "/", "0", "b", "é", "z" * 40, "z" * 41, "b" * 60, "\U0001f600" * 20)
_NAMES = st.builds(
    lambda head, tail: ("x" + head + tail).replace("/", "/y"),
    st.sampled_from(_HEADS),
    st.lists(st.sampled_from(_TAILS), max_size=3).map("".join),
)


class ListingSuite(StoreCase):
    """`ListStreams` on a store."""

    def sort_key(self, name: str) -> bytes:
        """Return the key by which the store orders names."""
        return listing_key(name)

    def page(self, prefix: str = "", after: str = "", limit: int = 100, scan: int = 10_000) -> Page:
        """Return one page."""
        return self.answer(ListStreams(prefix, after, limit, scan))

    def answer(self, question: ListStreams) -> Page:
        """Return the answer to a question."""
        page = self.result(self.store.query(question))
        assert isinstance(page, Page), page
        return page

    def names(self, prefix: str = "", limit: int = 100, scan: int = 10_000) -> list[str]:
        """Return all names, page by page."""
        found: list[str] = []
        after: str | None = ""
        while after is not None:
            page = self.page(prefix, after, limit, scan)
            self.assertLessEqual(len(page.streams), min(limit, scan))
            found += [state.path for state in page.streams]
            after = page.after
        return found

    def test_nothing(self) -> None:
        """An empty store has one empty page."""
        self.assertEqual(self.page(), Page(()))
        self.assertEqual(self.page("a", "b"), Page(()))

    def test_order(self) -> None:
        """Names are sorted by their bytes, each with its newest state."""
        names = ["b", "a/b", "a", "a-b", "a/a", "ab", "é", "\U0001f600", "\uffee", "a/é"]
        for name in names:
            self.created(put(name, raw=name.encode()))
        self.assertEqual(self.names(), sorted(names, key=str.encode))
        self.assertEqual([state.tail for state in self.page("a/").streams], [3, 3, 4])
        self.restart()
        self.assertEqual(self.names("a/"), ["a/a", "a/b", "a/é"])

    def test_pages(self) -> None:
        """A page has the start of the next one; the last has None."""
        for number in range(10):
            self.created(put(f"s{number}"))
        first = self.page(limit=5)
        self.assertEqual([state.path for state in first.streams], [f"s{n}" for n in range(5)])
        self.assertEqual(first.after, "s4")
        self.assertIsNone(self.page(after="s4", limit=5).after)
        self.assertIsNone(self.page(after="s9").after)
        self.assertEqual(self.page(after="s9").streams, ())

    def test_after_a_name_that_is_gone(self) -> None:
        """A page starts after a name that need not exist."""
        for name in ("a", "b", "c", "d"):
            self.created(put(name))
        page = self.page(limit=2)
        self.deleted("b")
        self.created(put("aa"))
        self.created(put("bb"))
        assert page.after is not None
        rest = self.page(after=page.after)
        self.assertEqual([state.path for state in rest.streams], ["bb", "c", "d"])
        self.assertEqual(self.names(), ["a", "aa", "bb", "c", "d"])

    def test_ended_streams(self) -> None:
        """Expired streams, and those kept for their forks, are left out."""
        for name in ("a", "b", "c", "d"):
            self.created(put(name, lifetime=Lifetime(ttl=10) if name == "b" else NO_EXPIRY))
        self.created(Create("fork", None, NO_EXPIRY, False, Body(b""), ForkRequest("c", None, 0)))
        self.submit(Delete("c"))
        self.sleep(10)
        self.assertEqual(self.names(), ["a", "d", "fork"])
        self.sweep(self.store)
        self.assertEqual(self.names(), ["a", "d", "fork"])
        self.assertEqual(self.names(limit=1), ["a", "d", "fork"])

    def test_accesses_count(self) -> None:
        """A stream whose TTL was restarted by a read is listed."""
        self.created(put(lifetime=Lifetime(ttl=10)))
        self.sleep(9)
        self.read()
        self.sleep(9)
        self.assertEqual(self.names(), ["a"])
        self.sleep(1)
        self.assertEqual(self.names(), [])

    def test_search(self) -> None:
        """Search finds text anywhere in a name; names that do not match count as examined."""
        for name in ("a/Xy", "b/xY", "c"):
            self.created(put(name))
        page = self.answer(ListStreams(contains="XY"))
        self.assertEqual([state.path for state in page.streams], ["a/Xy", "b/xY"])
        page = self.answer(ListStreams(contains="c", scan=2))
        self.assertEqual((page.streams, page.after), ((), "b/xY"))

    def level(self, prefix: str = "", limit: int = 100) -> list[str]:
        """Return the names and folders of one level, page by page."""
        found: list[str] = []
        after: str | None = ""
        while after is not None:
            page = self.answer(ListStreams(prefix, after, limit, tree=True))
            self.assertLessEqual(len(page.streams) + len(page.folders), limit)
            found += [state.path for state in page.streams]
            found += page.folders
            after = page.after
        return sorted(found)

    def test_tree(self) -> None:
        """A level has each folder once, whatever is in it, and passes over its names."""
        names = ["a", "a/b", "a/\U0010fffe", "a-", "b/c/d", "b/c/e", "z/" + "n" * 600, "ä/é/ü"]
        for name in names:
            self.created(put(name))
        for limit in (1, 2, 100):
            self.assertEqual(self.level("", limit), ["a", "a-", "a/", "b/", "z/", "ä/"])
            self.assertEqual(self.level("b/", limit), ["b/c/"])
            self.assertEqual(self.level("b/c/", limit), ["b/c/d", "b/c/e"])
        self.submit(Delete("b/c/d"))
        self.submit(Delete("b/c/e"))
        self.assertEqual(self.level("b/"), [])
        for number in range(20):
            self.created(put(f"many/{number}"))
        page = self.answer(ListStreams("m", scan=2, tree=True))
        self.assertEqual((page.folders, page.after), (("many/",), None))

    def test_bounded_work(self) -> None:
        """A page that examines many names ends early and has an ``after``."""
        for number in range(10):
            name = f"s{number}"
            self.created(put(name, lifetime=Lifetime(ttl=1) if number < 7 else NO_EXPIRY))
        self.sleep(1)
        page = self.page(scan=3)
        self.assertEqual((page.streams, page.after), ((), "s2"))
        self.assertEqual(self.names(scan=3), ["s7", "s8", "s9"])

    def test_long_names(self) -> None:
        """Names longer than a key are listed, also if they differ only after its end."""
        stem = "a" * 500
        names = [stem + str(number) for number in range(20)] + ["a" * 440, "a" * 480, stem]
        for name in names:
            self.created(put(name))
        expected = sorted(names, key=self.sort_key)
        self.assertEqual(expected[:2], ["a" * 440, "a" * 480])
        for limit in (1, 3, 100):
            self.assertEqual(self.names(limit=limit), expected)
        ones = [name for name in expected if name.startswith(stem + "1")]
        self.assertEqual(len(ones), 11)
        # Examined names with another prefix count too.
        for scan in (1, 4, 100):
            self.assertEqual(self.names(stem + "1", scan=scan), ones)
        self.assertEqual(self.names(stem + "x", scan=2), [])

    def test_any_names(self) -> None:
        """Each name is listed once, in order, for any page size."""

        @given(
            st.sets(_NAMES, max_size=12),
            st.sets(_NAMES, max_size=4),
            _NAMES,
            st.integers(0, 500),
            st.integers(1, 5),
            st.integers(1, 5),
        )
        def examine(
            names: set[str], gone: set[str], some: str, cut: int, limit: int, scan: int
        ) -> None:
            self.finish()
            self.begin()
            self.submit_all(*[put(name) for name in sorted(names)])
            self.page()
            self.submit_all(*[put(name) for name in sorted(gone - names)])
            self.submit_all(*[Delete(name) for name in gone])
            left = sorted(names - gone, key=self.sort_key)
            prefix = some[:cut]
            matching = [name for name in left if name.startswith(prefix)]
            self.assertEqual(self.names(prefix, limit, scan), matching)
            found = [state.path for state in self.page(prefix, after=some).streams]
            behind = [name for name in matching if self.sort_key(name) > self.sort_key(some)]
            self.assertEqual(found, behind)

        examine()
