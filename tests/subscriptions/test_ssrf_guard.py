"""Tests of `durable_streams_tw.subscriptions.ssrf_guard`."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from hypothesis import given
from hypothesis import strategies as st

from durable_streams_tw.protocol.errors import Problem, Refused
from durable_streams_tw.subscriptions.ssrf_guard import (
    Target,
    check_addresses,
    is_public,
    target_of,
)
from tests.protocol.refusal_case import RefusalTestCase

PUBLIC = (
    *("1.1.1.1", "8.8.8.8", "93.184.216.34", "172.15.255.255", "172.32.0.1", "100.63.0.1"),
    *("2606:4700::1111", "2a00:1450:4001:830::200e", "2620:fe::fe"),
)

#: Addresses and their kinds.
INSIDE = (
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1"),
    *("127.255.255.254", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255"),
    *("192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1"),
    *("198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
    "168.63.129.16",  # metadata service of a cloud, in a public range
    *("::", "::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "100::1"),
    *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::8.8.8.8"),  # mapped and compatible
    *("64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1"),  # NAT64
    *("2002:7f00:1::1", "2002:808:808::1"),  # 6to4
    *("2001::1", "2001:0:7f00:1::1", "2001:db8::1", "3fff::1", "3ffe::1", "4000::1"),
    *("2a00:1450::5efe:7f00:1", "2a00:1450::200:5efe:7f00:1"),  # ISATAP
)


class AddressTests(RefusalTestCase):
    """Addresses."""

    def test_public(self) -> None:
        for text in PUBLIC:
            self.assertTrue(is_public(ip_address(text)), text)

    def test_inside(self) -> None:
        for text in INSIDE:
            self.assertFalse(is_public(ip_address(text)), text)
        self.assertFalse(is_public(IPv6Address("2a00:1450::1%eth0")))

    @given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
    def test_agrees_with_the_standard_library(self, address: IPv4Address | IPv6Address) -> None:
        """No address that the standard library calls private, local or reserved is public."""
        if is_public(address):
            self.assertTrue(address.is_global)
            for flag in ("private", "loopback", "link_local", "multicast", "unspecified"):
                self.assertFalse(getattr(address, f"is_{flag}"), flag)


class URLTests(RefusalTestCase):
    """URLs."""

    def assertRejected(self, url: str, allow_local: bool = False) -> None:
        self.assertRefused(Problem.WEBHOOK_URL_REJECTED, target_of, url, allow_local)

    def test_good(self) -> None:
        for url, host, port in (
            ("https://worker.example/hooks", "worker.example", 443),
            ("https://Worker.Example./hooks?x=1&y=%20", "worker.example", 443),
            ("https://worker.example:8443", "worker.example", 8443),
            ("https://xn--mller-kva.example/", "xn--mller-kva.example", 443),
            ("https://8.8.8.8/", "8.8.8.8", 443),
        ):
            self.assertEqual(target_of(url, False), Target(url, True, host, port, False))

    def test_every_literal_inside(self) -> None:
        for text in INSIDE:
            host = f"[{text}]" if ":" in text else text
            for scheme in ("https", "http"):
                self.assertRejected(f"{scheme}://{host}/")
                self.assertRejected(f"{scheme}://{host}:8080/x")

    def test_unusual_addresses(self) -> None:
        """Unusual spellings of addresses are refused."""
        for host in (
            *("127.1", "2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "127.0.0.1."),
            *("127.000.000.001", "0", "1", "8.8.8", "0x8.8.8.8", "017700000001", "1.2.3.4.5"),
            *("256.256.256.256", "example.0x1", "example.1", "[::FFFF:7f00:1]", "[fe80::1%25eth0]"),
            *("[0:0:0:0:0:0:0:1]", "[::1", "::1", "[127.0.0.1]", "[worker.example]", "[v1.x]"),
            "[2606:4700::1111]",
        ):
            self.assertRejected(f"https://{host}/")
            self.assertRejected(f"http://{host}/", allow_local=False)

    def test_malformed(self) -> None:
        for url in (
            *("", "https", "https:", "https://", "https:///x", "//worker.example/", "/hooks"),
            *("ftp://worker.example/", "file:///etc/passwd", "gopher://x/", "javascript:alert(1)"),
            *("http://worker.example/", "https://worker.example/#x", "https://worker.example#"),
            *(
                "https://u@worker.example/",
                "https://u:p@worker.example/",
                "https://@worker.example",
            ),
            *("https://worker.example:/", "https://worker.example:0/", "https://worker.example:x/"),
            *("https://worker.example:65536/", "https://worker.example\\@10.0.0.1/"),
            *(
                "https://worker.example/a b",
                "https://worker.example/\r\nX: y",
                "https://w\x00.example",
            ),
            *("https://wörker.example/", "https://worker。example/", "https://-x.example/"),
            *("https://a..example/", "https://a_b.example/", "https://" + "a" * 64 + ".example/"),
            *("https://%31%30.0.0.1/", "https://" + "a." * 127 + "ab/", "https://x/" + "a" * 2048),
        ):
            self.assertRejected(url)

    def test_loopback(self) -> None:
        """Loopback URLs are allowed only if the server allows them (§6.2)."""
        for url in (
            *("http://localhost/", "http://localhost:3000/x", "http://127.0.0.1:80/"),
            *("http://127.0.0.9/", "http://127.0.0.1:65535", "https://localhost/"),
            "http://app.localhost/",
        ):
            with self.assertRaisesRegex(Refused, "--allow-local-webhooks"):
                target_of(url, False)
            self.assertTrue(target_of(url, True).local)
        for url in (
            *("http://10.0.0.1/hook", "http://169.254.169.254/", "http://127.1/"),
            *("http://localhost.example/", "http://0.0.0.0/", "http://[::ffff:127.0.0.1]/"),
            "http://2130706433/",
        ):
            self.assertRejected(url, allow_local=True)
        self.assertFalse(target_of("https://worker.example/", True).local)

    @given(st.text(max_size=40))
    def test_anything(self, text: str) -> None:
        for url in (text, f"https://{text}", f"https://{text}/"):
            try:
                target = target_of(url, False)
            except Refused:
                continue
            self.assertTrue(target.secure and not target.local and target.host)


class ScreenedTests(RefusalTestCase):
    """Resolved addresses."""

    def screen(self, *found: str, url: str = "https://worker.example/") -> list[str]:
        return [str(address) for address in check_addresses(target_of(url, True), list(found))]

    def test_public(self) -> None:
        self.assertEqual(self.screen("8.8.8.8", "2606:4700::1111"), ["8.8.8.8", "2606:4700::1111"])

    def test_one_bad_address_is_enough(self) -> None:
        for bad in (*INSIDE, "fe80::1%eth0", "no address", ""):
            for found in ((bad,), ("8.8.8.8", bad), (bad, "8.8.8.8")):
                self.assertRefused(Problem.WEBHOOK_URL_REJECTED, self.screen, *found)

    def test_loopback(self) -> None:
        """A local name may resolve to loopback addresses only."""
        url = "http://localhost/"
        self.assertEqual(self.screen("127.0.0.1", "::1", url=url), ["127.0.0.1", "::1"])
        for bad in ("8.8.8.8", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1"):
            self.assertRefused(
                Problem.WEBHOOK_URL_REJECTED, lambda host=bad: self.screen(host, url=url)
            )
