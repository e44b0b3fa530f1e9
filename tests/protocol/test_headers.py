"""Tests of `durable_streams_tw.protocol.headers`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from durable_streams_tw.protocol import headers
from durable_streams_tw.protocol.errors import Problem, Refused
from durable_streams_tw.protocol.limits import MAX_SAFE_INTEGER, MAX_TOKEN, MAX_TTL
from tests.protocol.refusal_case import RefusalTestCase

# 2030-01-31T12:00:00Z
MOMENT = 1_896_091_200_000


class TrueTests(RefusalTestCase):
    """Stream-Closed."""

    def test_only_true(self) -> None:
        """Only ``true`` in any case is true; other values are ignored (§4.1)."""
        for value in (b"true", b"TRUE", b"True", b"tRuE"):
            self.assertTrue(headers.is_true(value))
        for other in (
            None,
            b"",
            b"false",
            b"yes",
            b"1",
            b"true ",
            b" true",
            b"true, true",
            b"truee",
        ):
            self.assertFalse(headers.is_true(other))


class IntegerTests(RefusalTestCase):
    """Numbers in headers."""

    def test_integer(self) -> None:
        """Integers are decimal without sign and leading zeros."""
        for value, number in (
            (b"0", 0),
            (b"1", 1),
            (b"3600", 3600),
            (b"9007199254740991", MAX_SAFE_INTEGER),
        ):
            self.assertEqual(headers.parse_integer("X", value), number)

    def test_count(self) -> None:
        """Counts of producers may have leading zeros."""
        for value, number in (
            (b"0", 0),
            (b"00", 0),
            (b"007", 7),
            (b"9007199254740991", MAX_SAFE_INTEGER),
            (b"0000000000009007199254740991", MAX_SAFE_INTEGER),
        ):
            self.assertEqual(headers.parse_count("X", value), number)

    def test_refused(self) -> None:
        """Malformed numbers, and those above 2^53-1, are refused with the header's name."""
        for value in (
            *(b"", b" ", b"-1", b"-0", b"+1", b"1.0", b"1e3", b"3.6e3", b"0x10", b"0xyz", b"1abc"),
            *(
                b"1 ",
                b" 1",
                b"1\n",
                b"1,1",
                b"1, 1",
                b"1_000",
                b"abc",
                b"\xb2",
                b"\xd9\xa1",
                b"1\0",
            ),
            *(b"9007199254740992", b"18446744073709551616", b"9" * 33, b"9" * 100_000),
        ):
            for parse in (headers.parse_integer, headers.parse_count):
                refusal = self.assertRefused(Problem.MALFORMED_FIELD, parse, "Some-Field", value)
                self.assertIn("Some-Field", refusal.detail)
        for value in (b"00", b"01", b"00060"):
            self.assertRefused(Problem.MALFORMED_FIELD, headers.parse_integer, "X", value)

    def test_ttl(self) -> None:
        """A TTL has a bound, so that deadlines do not overflow (PROTOCOL.md §5.1)."""
        for value, seconds in (
            (b"0", 0),
            (b"1", 1),
            (b"99999", 99_999),
            (b"%d" % MAX_TTL, MAX_TTL),
        ):
            self.assertEqual(headers.parse_ttl(value), seconds)
        for bad in (
            *(b"abc", b"-1", b"00060", b"+60", b"60.5", b"1e3", b"", b"3600, 3600"),
            *(b"%d" % (MAX_TTL + 1), b"%d" % MAX_SAFE_INTEGER),
        ):
            refusal = self.assertRefused(Problem.MALFORMED_FIELD, headers.parse_ttl, bad)
            self.assertIn("Stream-TTL", refusal.detail)

    @given(st.integers(0, MAX_SAFE_INTEGER))
    def test_round_trip(self, number: int) -> None:
        """Each number in range is parsed to itself."""
        self.assertEqual(headers.parse_integer("X", b"%d" % number), number)
        self.assertEqual(headers.parse_count("X", b"%d" % number), number)

    @given(st.text("0123456789+-.eEx ", max_size=20))
    def test_any_text(self, text: str) -> None:
        """Any accepted text is the number's canonical form."""
        try:
            number = headers.parse_integer("X", text.encode())
        except Refused:
            return
        self.assertEqual(text, str(number))


class TimestampTests(RefusalTestCase):
    """RFC 3339."""

    def _moment(self, text: str) -> int:
        return headers.parse_timestamp("Stream-Expires-At", text.encode())

    def test_spellings(self) -> None:
        """Different spellings of a time are parsed to the same time."""
        for text in (
            *("2030-01-31T12:00:00Z", "2030-01-31t12:00:00z", "2030-01-31T12:00:00+00:00"),
            *(
                "2030-01-31T12:00:00-00:00",
                "2030-01-31T13:30:00+01:30",
                "2030-01-31T04:00:00-08:00",
            ),
            *("2030-02-01T11:59:00+23:59", "2030-01-30T12:01:00-23:59", "2030-01-31T12:00:00.0Z"),
            "2030-01-31T12:00:00.000999Z",
        ):
            self.assertEqual(self._moment(text), MOMENT, text)

    def test_fractions(self) -> None:
        """Fractions have any number of digits and are truncated to milliseconds."""
        for fraction, milliseconds in (
            (".5", 500),
            (".05", 50),
            (".005", 5),
            (".0005", 0),
            (".123", 123),
            (".1239", 123),
            (".123456789", 123),
            (".999999", 999),
            ("." + "9" * 100, 999),
        ):
            text = f"2030-01-31T12:00:00{fraction}Z"
            self.assertEqual(self._moment(text), MOMENT + milliseconds, text)

    def test_calendar(self) -> None:
        """Leap days, ends of months, and the first and last year are valid."""
        for text, moment in (
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59.5Z", -500),
            ("2000-02-29T00:00:00Z", 951_782_400_000),
            ("2028-02-29T00:00:00Z", 1_835_395_200_000),
            ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
            ("9999-12-31T23:59:59-23:59", 253_402_300_799_000 + 86_340_000),
            ("0001-01-01T00:00:00+23:59", -62_135_596_800_000 - 86_340_000),
        ):
            self.assertEqual(self._moment(text), moment, text)

    def test_leap_seconds(self) -> None:
        """Second 60 is valid at the end of a UTC day, and counts as the next second."""
        midnight = 1_483_228_800_000
        for text, moment in (
            ("2016-12-31T23:59:60Z", midnight),
            ("2016-12-31T23:59:60.5Z", midnight + 500),
            ("1990-12-31T15:59:60-08:00", 662_688_000_000),
            ("2017-01-01T05:29:60+05:30", midnight),
        ):
            self.assertEqual(self._moment(text), moment, text)
        for text in (
            *("2016-12-31T23:58:60Z", "2016-12-31T12:00:60Z", "2016-12-31T23:59:60+01:00"),
            *("2016-12-31T23:59:61Z", "2016-12-31T23:60:00Z", "2030-01-31T12:00:60Z"),
        ):
            self.assertRefused(Problem.MALFORMED_FIELD, self._moment, text)

    def test_refused(self) -> None:
        """Malformed times and missing days are refused."""
        for text in (
            *(
                "",
                " ",
                "not-a-timestamp",
                "2030",
                "2030-01-31",
                "2030-01-31T12:00:00",
                "1896091200",
            ),
            *("2030-01-31 12:00:00Z", "2030-01-31T12:00Z", "2030-01-31T12Z", "20300131T120000Z"),
            *("2030-1-31T12:00:00Z", "30-01-31T12:00:00Z", "+2030-01-31T12:00:00Z", "2030-W05-4"),
            *("12030-01-31T12:00:00Z", "2030-031T12:00:00Z", "2030-01-31T12:00:00.Z"),
            *("2030-01-31T12:00:00,5Z", "2030-01-31T12:00:00 Z", "2030-01-31T12:00:00UTC"),
            *("2030-01-31T12:00:00+0100", "2030-01-31T12:00:00+01", "2030-01-31T12:00:00+1:00"),
            *(
                "2030-01-31T12:00:00+24:00",
                "2030-01-31T12:00:00+23:60",
                "2030-01-31T12:00:00+00:60",
            ),
            *("2030-01-31T12:00:00+01:00:00", "2030-01-31T24:00:00Z", "2030-01-31T25:00:00Z"),
            *("2030-00-01T00:00:00Z", "2030-13-01T00:00:00Z", "2030-01-00T00:00:00Z"),
            *("2030-02-29T00:00:00Z", "2100-02-29T00:00:00Z", "2030-04-31T00:00:00Z"),
            *("2030-01-32T00:00:00Z", "0000-01-01T00:00:00Z", "2030-01-31T12:00:00Z "),
            *("2030-01-31T12:00:00Z\n", " 2030-01-31T12:00:00Z", "2030-01-31T12:00:00ZZ"),
            *("2030-01-31T12:00:00Z, 2030-01-31T12:00:00Z", "Thu, 31 Jan 2030 12:00:00 GMT"),
            *(
                "\N{FULLWIDTH DIGIT TWO}030-01-31T12:00:00Z",
                "2030-01-31T12:00:00." + "9" * 5000 + "Z",
            ),
        ):
            refusal = self.assertRefused(Problem.MALFORMED_FIELD, self._moment, text)
            self.assertIn("Stream-Expires-At", refusal.detail)

    @given(
        st.datetimes(
            timezones=st.integers(-23 * 60 - 59, 23 * 60 + 59).map(
                lambda minutes: timezone(timedelta(minutes=minutes))
            )
        )
    )
    def test_any_time(self, moment: datetime) -> None:
        """Any time with any offset equals the standard library's."""
        whole = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
        self.assertEqual(self._moment(moment.isoformat()), whole)

    @given(st.text("0123456789-+:.TtZz ", max_size=30) | st.text(max_size=30))
    def test_any_text(self, text: str) -> None:
        """Any text is a time or refused."""
        try:
            self._moment(text)
        except Refused as refused:
            self.assertEqual(refused.refusal.problem, Problem.MALFORMED_FIELD)


class TokenTests(RefusalTestCase):
    """Tokens: names chosen by clients."""

    def test_tokens(self) -> None:
        """Printable tokens are kept as sent, decoded as UTF-8 or else Latin-1."""
        for value, text in (
            (b"a", "a"),
            (b"order-service-1", "order-service-1"),
            (b"a b\tc,;=\"'", "a b\tc,;=\"'"),
            ("café \U0001f600".encode(), "café \U0001f600"),
            (b"caf\xe9", "café"),
            (b"a" * MAX_TOKEN, "a" * MAX_TOKEN),
        ):
            self.assertEqual(headers.parse_token("X", value), text)

    def test_refused(self) -> None:
        """Empty and long tokens, and control characters, are refused."""
        for value in (
            *(b"", b"a" * (MAX_TOKEN + 1), b"\xff" * (MAX_TOKEN + 1)),
            *(b"a\r\nSet-Cookie: b", b"a\nb", b"a\rb", b"a\0", b"\x1b[1m", b"a\x7f", b"\x08"),
        ):
            refusal = self.assertRefused(
                Problem.MALFORMED_FIELD, headers.parse_token, "A-Name", value
            )
            self.assertIn("A-Name", refusal.detail)

    @given(st.binary(max_size=20))
    def test_any_bytes(self, value: bytes) -> None:
        """Any bytes are refused, or decoded to text that can be stored."""
        try:
            text = headers.parse_token("X", value)
        except Refused as refused:
            self.assertEqual(refused.refusal.problem, Problem.MALFORMED_FIELD)
        else:
            self.assertTrue(text.encode("utf-8"))
