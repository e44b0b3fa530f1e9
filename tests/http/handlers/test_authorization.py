"""Tests of `durable_streams_tw.http.handlers.authorization` for streams, with both HTTP servers."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from durable_streams_tw.auth.identities import CheckerUnavailable, Identity, Rejected
from tests.http.authorization_case import AuthorizationCase, both_servers, granting
from tests.http.server_fixture import MORNING, ROOT, Client


class Credentials(AuthorizationCase):
    """Authentication."""

    def test_without(self) -> None:
        """Without a token every method gets the same response, whether the stream exists or not."""
        self.put("a", b"secret")
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
            body = b"x" if method in ("POST", "PUT") else None
            there = self.ask(method, "a", None, body, Content_Type="text/plain")
            missing = self.ask(method, "b", None, body, Content_Type="text/plain")
            self.assertEqual((there.status, missing.status), (401, 401), method)
            self.assertEqual(there.body, missing.body)
            self.assertEqual(there.header["www-authenticate"], 'Bearer realm="durable-streams"')
            self.assertEqual(there.header["cache-control"], "no-store")
        self.assertEqual(self.ask("GET", "a", "root").body, b"secret")
        self.assertEqual(self.status("GET", "b", "root"), 404)

    def test_malformed(self) -> None:
        """Malformed Authorization headers are refused."""
        self.put("a")
        for value in (
            "",
            "Bearer",
            "Bearer ",
            "Bearer root root",
            "Bearer root,root",
            "Bearer root, Bearer root",
            'Bearer "root"',
            "Basic cm9vdDpyb290",
            "root",
            "Bearer root=x",
            "Bearer r\xf6\xf6t",
            "Bearer " + "r" * 9000,
            "Bearer\troot",
        ):
            self.assertEqual(self.status("GET", "a", Authorization=value), 401, value[:30])
        for value in ("bearer root", "BEARER root", "Bearer   root", "Bearer root\t"):
            self.assertEqual(self.status("GET", "a", Authorization=value), 200, value)

    def test_twice(self) -> None:
        """Two Authorization headers are refused."""
        client = self.connect()
        lines = ["Authorization: Bearer root", "Authorization: Bearer x"]
        for one in (lines, lines[::-1]):
            client = self.connect()
            client.send("\r\n".join([f"GET {ROOT}a HTTP/1.1", "Host: h", *one, "", ""]).encode())
            self.assertIn(client.answers()[0].status, (400, 401))

    def test_not_in_the_url(self) -> None:
        """A token in the URL is not accepted."""
        self.put("a")
        for query in ("access_token=root", "token=root", "authorization=Bearer%20root"):
            self.assertEqual(self.status("GET", f"a?{query}"), 401)

    def test_no_cookies_unless_named(self) -> None:
        """Cookies are ignored unless the setting names one."""
        self.put("a")
        self.assertEqual(self.status("GET", "a", Cookie="token=root; authorization=root"), 401)

    def test_preflight(self) -> None:
        """A preflight needs no token, and its response does not depend on the stream."""
        self.put("a")
        there = self.ask("OPTIONS", "a", Origin="https://app.example")
        missing = self.ask("OPTIONS", "b", Origin="https://app.example")
        self.assertEqual((there.status, missing.status), (204, 204))
        self.assertEqual(there.header, missing.header)

    def test_other_methods(self) -> None:
        """Unknown methods need a token too."""
        self.put("a")
        for method in ("PATCH", "get", "TRACE", "PROPFIND", "LINK"):
            self.assertEqual(self.status(method, "a"), 401, method)
            self.assertEqual(self.status(method, "a", "root"), 405, method)

    def test_an_override_is_no_method(self) -> None:
        """Method override headers are ignored."""
        self.put("a", b"x")
        self.give("reader", ("a", "read"))
        for name in ("X_HTTP_Method_Override", "X_Method_Override", "X_HTTP_Method"):
            answer = self.ask("GET", "a", "reader", None, **{name: "DELETE"})
            self.assertEqual(answer.body, b"x")
        self.assertEqual(self.status("GET", "a", "root"), 200)

    def test_private(self) -> None:
        """Responses are private and vary by Authorization."""
        self.put("a", b"x")
        answer = self.ask("GET", "a", "root")
        self.assertTrue(answer.header["cache-control"].startswith("private"), answer)
        self.assertIn("Authorization", answer.header["vary"])

    def test_not_modified(self) -> None:
        """A conditional request needs a token too."""
        self.put("a", b"x")
        tag = self.ask("GET", "a", "root").header["etag"]
        self.assertEqual(self.status("GET", "a", If_None_Match=tag), 401)
        self.assertEqual(self.status("GET", "a", "root", If_None_Match=tag), 304)

    def test_checkers_that_fail(self) -> None:
        """A checker that fails or returns no identity accepts no one."""
        self.put("a")
        self.tokens.known["down"] = CheckerUnavailable("the issuer does not answer", 7)
        answer = self.ask("GET", "a", "down")
        self.assertEqual((answer.status, answer.header["retry-after"]), (503, "7"))
        self.tokens.known["bug"] = ZeroDivisionError("root")
        answer = self.ask("GET", "a", "bug")
        self.assertEqual(answer.status, 500)
        self.assertNotIn(b"root", answer.body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        for nonsense in (None, True, "root", b"root", (), object()):
            self.tokens.known["odd"] = nonsense  # type: ignore[assignment]
            self.assertEqual(self.status("GET", "a", "odd"), 500)
        self.flushLoggedErrors(TypeError)

    def test_rejection_message(self) -> None:
        """The client gets the message of a `Rejected`, and no other."""
        self.tokens.known["old"] = Rejected("the token has expired")
        self.assertIn(b"has expired", self.ask("GET", "a", "old").body)

    def test_later(self) -> None:
        """A checker may be asynchronous, and a client may leave meanwhile."""
        self.put("a", b"x")
        answer: Deferred[object] = Deferred()
        self.tokens.later["slow"] = answer
        client = self.connect()
        client.request("GET", ROOT + "a", {"Authorization": "Bearer slow"})
        self.assertEqual(client.answers(), [])
        answer.callback(Identity("slow", granting(("a", "read"))))
        self.assertEqual(client.answers()[0].body, b"x")
        cancelled: list[object] = []
        self.tokens.later["slow"] = Deferred(cancelled.append)
        client = self.connect()
        client.request("GET", ROOT + "a", {"Authorization": "Bearer slow"})
        client.leave()
        self.assertEqual(len(cancelled), 1)

    def test_expired(self) -> None:
        """An identity that has expired is refused, whatever the checker returns."""
        self.put("a")
        self.give("brief", ("", "read"), ends=10)
        self.assertEqual(self.status("GET", "a", "brief"), 200)
        self.clock.advance(10)
        self.assertEqual(self.status("GET", "a", "brief"), 401)

    def test_in_the_process(self) -> None:
        """Calls in the process are not checked."""
        self.successResultOf(self.streams.create("a", "text/plain"))
        self.successResultOf(self.streams.append("a", b"x"))
        self.assertEqual(self.successResultOf(self.streams.read("a")).data, b"x")


class Permissions(AuthorizationCase):
    """Grants."""

    def test_verbs(self) -> None:
        """Each verb allows its own methods."""
        self.put("x/a", b"x")
        methods = {
            "read": {"GET", "HEAD"},
            "append": {"POST"},
            "create": {"PUT"},
            "delete": {"DELETE"},
            "subscribe": set(),
            "list": set(),
            "metrics": set(),
        }
        for verb, allowed in methods.items():
            self.give(verb, ("x", verb))
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
                body = b"x" if method in ("POST", "PUT") else None
                status = self.status(method, "x/a", verb, body, Content_Type="text/plain")
                self.assertEqual(status == 403, method not in allowed, (verb, method, status))

    def test_boundaries(self) -> None:
        """Grants apply to whole segments after percent-decoding."""
        self.give("t", ("jobs", "read"), ("exact/", "read"), ("ü x", "read"))
        for path, status in (
            ("jobs", 404),
            ("jobs/1", 404),
            ("jobs/1/2", 404),
            ("%6Aobs/1", 404),
            ("jobs%2F1", 404),
            ("jobs2", 403),
            ("job", 403),
            ("JOBS", 403),
            ("jobs%20", 403),
            ("exact", 403),
            ("exact/1", 404),
            ("exactly", 403),
            ("%C3%BC%20x/1", 404),
            ("u%CC%88%20x/1", 403),
            ("jobs/../secret", 400),
            ("jobs/%2E%2E/secret", 400),
            ("jobs/%2e%2e%2fsecret", 400),
            ("jobs/..%2fsecret", 400),
            ("jobs/.", 400),
            ("jobs//1", 400),
            ("jobs/%00", 400),
            ("jobs%252F..%252Fsecret", 403),
            ("secret;/jobs", 403),
            ("secret%3F/jobs", 403),
            ("secret#jobs", 400),
            (r"jobs\..\secret", 403),
        ):
            self.assertEqual(self.status("GET", path, "t"), status, path)

    def test_targets_in_absolute_form(self) -> None:
        """Grants apply to targets in absolute form too."""
        self.put("secret", b"s")
        self.give("t", ("jobs", "read"))
        for target in (
            f"http://streams.example{ROOT}secret",
            f"http://streams.example{ROOT}secret?x={ROOT}jobs",
            f"http://jobs{ROOT}secret",
        ):
            client = self.connect()
            answer = client.ask("GET", target, {"Authorization": "Bearer t"})
            self.assertEqual(answer.status, 403, target)

    def test_refusals_disclose_nothing(self) -> None:
        """A refusal does not depend on whether the stream exists."""
        self.put("x/a", b"x")
        self.give("t", ("jobs", "read append create delete"))
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
            body = b"x" if method in ("POST", "PUT") else None
            answers = [self.ask(method, path, "t", body) for path in ("x/a", "x/b")]
            self.assertEqual(answers[0], answers[1])
            self.assertEqual(answers[0].status, 403)
            self.assertIn("insufficient_scope", answers[0].header["www-authenticate"])

    def test_closing_is_appending(self) -> None:
        """Closing needs the grant append."""
        self.put("x", b"x")
        self.give("t", ("x", "read create"))
        self.assertEqual(self.status("POST", "x", "t", Stream_Closed="true"), 403)
        self.assertEqual(self.status("PUT", "x", "t", b"x", Stream_Closed="true"), 409)
        self.assertNotIn("stream-closed", self.ask("HEAD", "x", "root").header)

    def test_put_again(self) -> None:
        """A PUT for an existing stream needs the grant create."""
        self.put("x", b"x")
        self.give("maker", ("x", "create"))
        self.give("writer", ("x", "append"))
        again = self.status("PUT", "x", "maker", b"more", Content_Type="text/plain")
        self.assertEqual(again, 200)
        self.assertEqual(self.ask("GET", "x", "root").body, b"x")
        self.assertEqual(self.status("PUT", "x", "writer", b"", Content_Type="text/plain"), 403)

    def test_forks(self) -> None:
        """A fork needs the grant read on its source."""
        self.put("secret", b"s")
        self.put("x/open", b"o")
        self.give("t", ("x", "read create append"), ("y", "create"))
        for source in ("secret", "%73ecret", "secret%2Fx", "x/%2e%2e/secret", "y/z"):
            status = self.status("PUT", "x/f", "t", Stream_Forked_From=ROOT + source)
            self.assertIn(status, (400, 403), source)
        missing = self.ask("PUT", "x/f", "t", Stream_Forked_From=ROOT + "nowhere")
        there = self.ask("PUT", "x/f", "t", Stream_Forked_From=ROOT + "secret")
        self.assertEqual(missing, there)
        for source in ("secret", ROOT + "secret", "http://streams.example" + ROOT + "secret"):
            status = self.status("PUT", "x/f", "t", Stream_Forked_From=source)
            self.assertIn(status, (403, 404), source)
        self.assertEqual(self.status("PUT", "z", "t", Stream_Forked_From=ROOT + "x/open"), 403)
        self.assertEqual(self.status("GET", "x/f", "root"), 404)
        self.assertEqual(self.status("PUT", "x/f", "t", Stream_Forked_From=ROOT + "x/open"), 201)
        self.assertEqual(self.ask("GET", "x/f", "t").body, b"o")

    def test_pipelined(self) -> None:
        """Each pipelined request is authorized by its own token."""
        self.put("a", b"x")
        client = self.connect()
        client.request("GET", ROOT + "a", {"Authorization": "Bearer root"})
        client.request("GET", ROOT + "a")
        client.request("GET", ROOT + "a", {"Authorization": "Bearer root"})
        self.assertEqual([answer.status for answer in client.answers()], [200, 401, 200])


class LiveReads(AuthorizationCase):
    """Live reads and the expiry of their tokens."""

    def follow(self, token: str, mode: str) -> Client:
        """Start a live read."""
        client = self.connect()
        header = {"Authorization": f"Bearer {token}"}
        client.request("GET", f"{ROOT}a?offset=now&live={mode}", header)
        self.clock.pump([0.0] * 5)
        return client

    def test_event_stream(self) -> None:
        """An SSE response ends with the token, and reconnecting is refused."""
        self.put("a")
        self.give("brief", ("a", "read"), ends=20)
        client = self.follow("brief", "sse")
        self.clock.advance(19)
        answer = client.answers()[0]
        self.assertEqual((answer.status, answer.complete), (200, False))
        self.clock.advance(1)
        answer = client.answers()[0]
        self.assertTrue(answer.complete)
        self.assertIn(b"streamNextOffset", answer.body)
        self.successResultOf(self.streams.append("a", b"canary"))
        self.clock.pump([0.0] * 5)
        self.assertNotIn(b"canary", client.transport.value())
        again = self.status("GET", "a?offset=now&live=sse", "brief")
        self.assertEqual(again, 401)

    def test_long_poll(self) -> None:
        """A long-poll ends with the token."""
        self.put("a")
        self.give("brief", ("a", "read"), ends=20)
        client = self.follow("brief", "long-poll")
        self.clock.advance(19)
        self.assertEqual(client.answers(), [])
        self.clock.advance(1)
        answers = client.answers()
        self.assertEqual([answer.status for answer in answers], [401])
        self.assertEqual(self.streams._long_polls.count, 0)

    def test_in_time(self) -> None:
        """Before the expiry nothing changes."""
        self.put("a")
        self.give("brief", ("a", "read"), ends=20)
        poll = self.follow("brief", "long-poll")
        events = self.follow("brief", "sse")
        self.successResultOf(self.streams.append("a", b"news"))
        self.clock.pump([0.0] * 5)
        self.assertEqual(poll.answers()[0].body, b"news")
        self.assertIn(b"news", events.answers()[0].body)

    def test_disconnects(self) -> None:
        """A client that disconnects leaves no timer behind."""
        self.put("a")
        self.clock.pump([0.0] * 5)
        before = len(self.clock.getDelayedCalls())
        self.give("brief", ("a", "read"), ends=20)
        for mode in ("sse", "long-poll"):
            self.follow("brief", mode).leave()
        self.clock.pump([0.0] * 5)
        ends = [call for call in self.clock.getDelayedCalls() if call.getTime() == MORNING + 20]
        self.assertEqual(ends, [])
        self.assertLessEqual(len(self.clock.getDelayedCalls()), before + 3)

    def test_streams_that_end(self) -> None:
        """A response that ends leaves no timer behind."""
        self.put("a")
        self.give("brief", ("a", "read"), ends=20)
        client = self.follow("brief", "sse")
        self.successResultOf(self.streams.close("a"))
        self.clock.pump([0.0] * 5)
        self.assertTrue(client.answers()[0].complete)
        self.clock.advance(30)
        self.assertEqual(len(client.answers()), 1)


FastCredentials, WebCredentials = both_servers(Credentials)
FastPermissions, WebPermissions = both_servers(Permissions)
FastLiveReads, WebLiveReads = both_servers(LiveReads)
del Credentials, Permissions, LiveReads, AuthorizationCase
