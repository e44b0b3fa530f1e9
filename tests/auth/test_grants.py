"""Tests of `durable_streams_tw.auth.grants`."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.auth.grants import Grant, Grants, MalformedGrants, Verb, grants_of
from durable_streams_tw.protocol.subscriptions.globs import matches, parse_glob

# Few letters and short names, so that paths often coincide.
SEGMENTS = st.sampled_from(["a", "b", "ab", "A", "*x"[1:]])
NAMES = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)
PATHS = st.one_of(st.just(""), NAMES, NAMES.map(lambda name: name + "/"))
GLOBS = st.lists(st.one_of(SEGMENTS, st.sampled_from(["*", "**"])), min_size=1, max_size=4).map(
    "/".join
)


def granting(*paths: str, verb: Verb = Verb.READ) -> Grants:
    """Return grants for one verb on some paths."""
    return Grants([Grant(path, frozenset([verb])) for path in paths])


class GrantsTests(SynchronousTestCase):
    """`Grants`."""

    @given(PATHS, NAMES)
    def test_by_segments(self, path: str, name: str) -> None:
        """A path covers whole segments."""
        granted = path.removesuffix("/").split("/") if path else []
        segments = name.split("/")
        below = segments[: len(granted)] == granted
        if path.endswith("/"):
            below = below and len(segments) > len(granted)
        self.assertEqual(granting(path).allow(Verb.READ, name), below)

    @given(st.lists(PATHS, max_size=3), GLOBS, NAMES)
    def test_globs(self, paths: list[str], glob: str, name: str) -> None:
        """An allowed glob matches no name that is not allowed."""
        grants = granting(*paths)
        parsed = parse_glob(glob)
        if grants.allow_every(Verb.READ, parsed) and matches(parsed, name):
            self.assertTrue(grants.allow(Verb.READ, name), (paths, glob, name))

    @given(st.lists(PATHS, max_size=3), st.text("ab/", max_size=6), NAMES)
    def test_prefixes(self, paths: list[str], prefix: str, name: str) -> None:
        """An allowed prefix begins no name that is not allowed."""
        grants = granting(*paths)
        if grants.allow_below(Verb.READ, prefix) and name.startswith(prefix):
            self.assertTrue(grants.allow(Verb.READ, name), (paths, prefix, name))

    @given(PATHS, NAMES)
    def test_verbs(self, path: str, name: str) -> None:
        """A grant for one verb allows no other."""
        grants = granting(path, verb=Verb.APPEND)
        self.assertFalse(grants.allow(Verb.READ, name))
        self.assertFalse(grants.allow_every(Verb.READ, parse_glob("a/*")))
        self.assertFalse(grants.allow_below(Verb.READ, "a/"))

    def test_verbs_do_not_mix(self) -> None:
        """Each grant applies to its own path only."""
        grants = Grants([Grant("a", frozenset([Verb.READ])), Grant("b", frozenset([Verb.APPEND]))])
        self.assertTrue(grants.allow(Verb.READ, "a/x"))
        self.assertFalse(grants.allow(Verb.READ, "b/x"))
        self.assertFalse(grants.allow(Verb.APPEND, "a/x"))

    def test_nothing(self) -> None:
        """Empty grants allow nothing."""
        self.assertFalse(Grants().allow(Verb.READ, "a"))
        self.assertFalse(Grants().allow_every(Verb.READ, parse_glob("**")))
        self.assertFalse(Grants().allow_below(Verb.LIST, ""))
        self.assertFalse(Grants().allow_somewhere(Verb.SUBSCRIBE))

    def test_everything(self) -> None:
        """The empty path covers all streams."""
        grants = granting("")
        self.assertTrue(grants.allow(Verb.READ, "a/b"))
        self.assertTrue(grants.allow_every(Verb.READ, parse_glob("**")))
        self.assertTrue(grants.allow_below(Verb.READ, ""))


class ReadingTests(SynchronousTestCase):
    """`grants_of`."""

    def test_good(self) -> None:
        grants = grants_of([{"path": "jobs/", "verbs": ["read", "append"]}], strict=True)
        self.assertTrue(grants.allow(Verb.APPEND, "jobs/1"))
        self.assertFalse(grants.allow(Verb.APPEND, "jobs"))

    def test_malformed(self) -> None:
        bad: tuple[Any, ...] = (
            None,
            {},
            "read jobs",
            [None],
            [{"path": "jobs"}],
            [{"verbs": ["read"]}],
            [{"path": "jobs", "verbs": "read"}],
            [{"path": "jobs", "verbs": [1]}],
            [{"path": None, "verbs": []}],
            [{"path": "jobs", "verbs": ["read"], "deny": ["append"]}],
            [{"path": "/jobs", "verbs": ["read"]}],
            [{"path": "jobs//", "verbs": ["read"]}],
            [{"path": "/", "verbs": ["read"]}],
            [{"path": "jobs/../x", "verbs": ["read"]}],
            [{"path": "..", "verbs": ["read"]}],
            [{"path": "jobs\n", "verbs": ["read"]}],
            [{"path": "__ds", "verbs": ["read"]}],
            [{"path": "__ds/subscriptions", "verbs": ["read"]}],
            [{"path": "x", "verbs": ["read"]}] * 1001,
        )
        for value in bad:
            for strict in (True, False):
                self.assertRaises(MalformedGrants, grants_of, value, strict=strict)

    def test_unknown_verbs(self) -> None:
        """Unknown verbs are errors in a token file, and are ignored in a JWT."""
        value = [{"path": "a", "verbs": ["READ", "admin", "*"]}]
        self.assertRaises(MalformedGrants, grants_of, value, strict=True)
        grants = grants_of(value, strict=False)
        for verb in Verb:
            self.assertFalse(grants.allow(verb, "a"))
