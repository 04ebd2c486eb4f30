"""Where a webhook may go: the law for its URL, and the addresses that are out of bounds.

An operator of one fleet chooses the URL, our machine makes the request: without a check it would
reach what only our machine can reach (its own ports, the private network, the cloud's metadata
service). So the name is resolved once, each address it has is judged, and the connection is made to
an address that was judged, not to the name: a name that answers differently the second time gains
nothing.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_URL_CHARS = 2048
MAX_PORT = 65_535
_DEFAULT_PORTS = {"http": 80, "https": 443}
#: What may stand in a request line as it is; everything else is spelled with %.
_URL = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9.])?|[0-9A-Fa-f:.]+")

#: Out of bounds beside what `ipaddress` calls not global (its tables differ between Pythons).
_FORBIDDEN = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",  # this host
            "100.64.0.0/10",  # carrier-grade NAT, and one cloud's metadata service in it
            "168.63.129.16/32",  # another cloud's metadata service, on a public address
            "192.0.0.0/24",  # IETF protocol assignments
            "192.88.99.0/24",  # 6to4 relays
            "198.18.0.0/15",  # benchmarks
            "240.0.0.0/4",  # reserved, broadcast in it
            "::/96",  # IPv4-compatible
            "64:ff9b:1::/48",  # NAT64 of a private network
            "100::/64",  # discard
            "2001::/23",  # IETF protocol assignments, Teredo in it
            "2002::/16",  # 6to4: an IPv4 address of anybody's choice in it
            "3fff::/20",  # documentation
            "fc00::/7",  # private
            "fec0::/10",  # site-local
        ),
    )
)
#: The last 32 bits are an IPv4 address, to which a gateway may translate.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class TargetRefused(Exception):
    """No webhook is sent there; the message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """A lawful URL, taken apart."""

    scheme: str
    host: str
    port: int
    #: Path and query, as the request line has it.
    path: str

    @property
    def host_header(self) -> str:
        """As HTTP wants it: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def parse(url: str) -> Target:
    """The parts of a lawful URL. Raises TargetRefused."""
    parts, port = _split(url)
    host = parts.hostname or ""
    if parts.scheme not in _DEFAULT_PORTS:
        raise TargetRefused("neither http nor https")
    if "@" in parts.netloc:
        raise TargetRefused("holds a user or a password")
    if "#" in url:
        raise TargetRefused("has a fragment, which is never sent")
    if not _HOST.fullmatch(host):
        raise TargetRefused("has no host name or address")
    if port == 0:
        raise TargetRefused("port 0 does not exist")
    path = parts.path or "/"
    return Target(
        parts.scheme,
        host,
        port or _DEFAULT_PORTS[parts.scheme],
        f"{path}?{parts.query}" if parts.query else path,
    )


def _split(url: str) -> tuple[SplitResult, int | None]:
    if len(url) > MAX_URL_CHARS:
        raise TargetRefused(f"longer than {MAX_URL_CHARS} characters")
    if not _URL.fullmatch(url):
        raise TargetRefused("holds characters that a URL spells with %")
    try:
        parts = urlsplit(url)
        return parts, parts.port
    except ValueError:
        raise TargetRefused("not a URL") from None


def resolve(target: Target, *, allow_private: bool) -> list[Address]:
    """The addresses of the target's host, every one of them allowed. Raises TargetRefused."""
    try:
        # The resolver also takes 0x7f.1 and 2130706433 for addresses: they are judged as such.
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise TargetRefused("the host name has no address") from error
    addresses = list(dict.fromkeys(_address(str(info[4][0])) for info in found))
    if not allow_private:
        # One forbidden address among good ones is no accident either.
        for address in addresses:
            if is_forbidden(address):
                raise TargetRefused("a private, local or reserved address")
    if not addresses:
        raise TargetRefused("the host name has no address")
    return addresses


def is_forbidden(address: Address) -> bool:
    """Whether an address may lead to something that is not of the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_forbidden(address.ipv4_mapped)
        if address in _NAT64:
            return is_forbidden(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    if not address.is_global or address.is_multicast:
        return True
    return any(address in network for network in _FORBIDDEN)


def _address(text: str) -> Address:
    return ipaddress.ip_address(text.partition("%")[0])  # fe80::1%eth0: the zone is ours, not its
