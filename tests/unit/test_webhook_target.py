"""Where a webhook may go: URLs, addresses, names that lead somewhere else."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest

from workers import webhook_target
from workers.webhook_target import TargetRefused, is_forbidden, parse, resolve

#: The public internet.
ALLOWED = [
    *("1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.1"),
    *("172.15.255.255", "172.32.0.1", "168.63.129.15", "223.255.255.255"),
    *("2606:4700:4700::1111", "2a00:1450:4001:81b::200e", "64:ff9b::808:808", "::ffff:8.8.8.8"),
]
FORBIDDEN = [
    *("127.0.0.1", "127.255.255.254", "::1"),  # loopback
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd12:3456::1"),  # private
    *("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16"),  # metadata
    *("169.254.0.1", "fe80::1", "fec0::1"),  # link-local, site-local
    *("100.64.0.1", "100.127.255.255"),  # carrier-grade NAT
    *("0.0.0.0", "0.1.2.3", "::"),  # noqa: S104   # unspecified, this host
    *("224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1"),  # multicast
    *("240.0.0.1", "255.255.255.255"),  # reserved, broadcast
    *("192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"),  # documentation
    *("198.18.0.1", "192.0.0.192", "192.88.99.1", "100::1"),  # benchmarks, protocols, discard
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),  # IPv4-mapped
    *("::ffff:168.63.129.16", "::ffff:192.88.99.1", "64:ff9b::a83f:8110"),
    *("::127.0.0.1", "::7f00:1"),  # IPv4-compatible
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1"),  # NAT64
    *("2002:7f00:1::", "2002:808:808::1", "2001:0:808:808::1"),  # 6to4, Teredo
]


@pytest.mark.parametrize("address", ALLOWED)
def test_the_public_internet_is_allowed(address: str) -> None:
    assert not is_forbidden(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", FORBIDDEN)
def test_everything_else_is_forbidden(address: str) -> None:
    assert is_forbidden(ipaddress.ip_address(address))


def url_of(address: str) -> str:
    return f"http://[{address}]/" if ":" in address else f"http://{address}/"


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "::1", "::ffff:10.0.0.1"])
def test_a_forbidden_address_in_the_url_is_refused_unless_allowed(address: str) -> None:
    target = parse(url_of(address))
    with pytest.raises(TargetRefused, match="private"):
        resolve(target, allow_private=False)
    assert resolve(target, allow_private=True) == [ipaddress.ip_address(address)]


@pytest.mark.parametrize(
    "host", ["localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "LOCALHOST."]
)
def test_other_spellings_of_loopback_are_seen_through(host: str) -> None:
    with pytest.raises(TargetRefused):
        resolve(parse(f"http://{host}/"), allow_private=False)


def answering(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[Any]:
    """From now on every name has these addresses; what was asked."""
    asked: list[Any] = []

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append((host, port))
        return [(0, 0, 0, "", (address, port)) for address in addresses]

    monkeypatch.setattr(webhook_target.socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("private", ["10.0.0.7", "fe80::1%eth0", "::ffff:127.0.0.1"])
def test_one_forbidden_address_among_good_ones_is_enough(
    monkeypatch: pytest.MonkeyPatch, private: str
) -> None:
    answering(monkeypatch, "1.1.1.1", private)
    with pytest.raises(TargetRefused, match="private"):
        resolve(parse("https://example.com/"), allow_private=False)


def test_a_name_is_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, "1.1.1.1", "1.1.1.1", "2606:4700:4700::1111")
    found = resolve(parse("https://example.com:8443/"), allow_private=False)
    assert [str(address) for address in found] == ["1.1.1.1", "2606:4700:4700::1111"]
    assert asked == [("example.com", 8443)]


def test_a_name_without_an_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror

    monkeypatch.setattr(webhook_target.socket, "getaddrinfo", nothing)
    with pytest.raises(TargetRefused, match="no address"):
        resolve(parse("https://example.com/"), allow_private=True)
    with pytest.raises(TargetRefused, match="no address"):
        resolve(parse("https://a..b/"), allow_private=True)


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "header"),
    [
        ("https://example.com", "example.com", 443, "/", "example.com"),
        ("http://example.com/a/b?c=d&e", "example.com", 80, "/a/b?c=d&e", "example.com"),
        ("https://Example.com:8443/x", "example.com", 8443, "/x", "example.com:8443"),
        ("https://example.com:443/", "example.com", 443, "/", "example.com"),
        ("http://example.com:443/", "example.com", 443, "/", "example.com:443"),
        ("http://[2606:4700::1]:81/", "2606:4700::1", 81, "/", "[2606:4700::1]:81"),
        ("http://1.1.1.1?q", "1.1.1.1", 80, "/?q", "1.1.1.1"),
    ],
)
def test_a_lawful_url_is_taken_apart(
    url: str, host: str, port: int, path: str, header: str
) -> None:
    target = parse(url)
    assert (target.host, target.port, target.path) == (host, port, path)
    assert target.host_header == header


@pytest.mark.parametrize(
    "url",
    [
        *("", "example.com", "//example.com/", "http://", "http:///x", "http://:80/"),
        *("ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "javascript:1"),
        *("http://user@example.com/", "http://user:pass@example.com/", "http://@example.com/"),
        *("http://example.com/#x", "http://example.com/#", "http://exa mple.com/"),
        *("http://example.com:0/", "http://example.com:65536/", "http://example.com:x/"),
        *("http://[::1/", "http://[x]/", "http://example.com\\@127.0.0.1/", "http://-x.com/"),
        *("http://example.com/\r\nX: 1", "http://example.com/\0", "http://exämple.com/"),
        *("http://example.com/\u00e9", "http://ex%61mple.com/", "http://example.com/" + "x" * 2048),
    ],
)
def test_an_unlawful_url_is_refused(url: str) -> None:
    with pytest.raises(TargetRefused):
        parse(url)
