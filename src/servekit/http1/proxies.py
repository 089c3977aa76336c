"""What proxies that are trusted say of the client: its address, the scheme and the host that it asked for. Pure.

A proxy adds to ``X-Forwarded-For`` the address that has connected to it; so of a list the last is the surest, and
whatever stands before the first address that is not trusted itself may be made up. Headers of other peers are headers
like any other, which nobody believes.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Iterable, Sequence

from servekit.errors import InvalidInputError


def trust(proxies: Iterable[str]) -> Callable[[str], bool]:
    """Whether an address is in one of these networks; raises `InvalidInputError` for what is no network."""
    networks = []
    for proxy in proxies:
        try:
            networks.append(ipaddress.ip_network(proxy))
        except ValueError as error:
            raise InvalidInputError(
                f"trusted_proxies has {proxy!r}, which is no address or network, as in '127.0.0.1' or '10.0.0.0/8': "
                f"{error}"
            ) from None

    @functools.lru_cache(maxsize=1024)
    def is_trusted(address: str) -> bool:
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:  # The peer of a Unix socket has none.
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in network for network in networks)

    return is_trusted


def client_of(forwarded: Sequence[bytes], peer: str, is_trusted: Callable[[str], bool]) -> tuple[str, int]:
    """The client's address, and how many trusted proxies it came through. The peer is one of them.

    That is the last of the addresses which is not trusted; where all are, the first. Where one of those that count
    is none, nothing is known but the peer.
    """
    client = peer
    for hops, value in enumerate(reversed(forwarded), 1):
        try:
            client = _address(value)
        except ValueError:
            return peer, 1
        if not is_trusted(client):
            return client, hops
    return client, max(1, len(forwarded))


def values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """The parts of a header that is a list, also where it was sent in several lines."""
    return [part.strip() for key, value in headers if key == name for part in value.split(b",")]


def nearest_of(found: Sequence[bytes], hops: int) -> bytes:
    """What the outermost trusted proxy said: each adds one at the end, or replaces all that was there."""
    return found[-min(hops, len(found))] if found else b""


def _address(value: bytes) -> str:
    """The address in ``192.0.2.1``, ``192.0.2.1:80``, ``2001:db8::1`` and ``[2001:db8::1]:80``; else ``ValueError``."""
    text = value.decode("latin-1")
    if text.startswith("["):
        text, bracket, _ = text[1:].partition("]")
        text = text if bracket else ""
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return str(ipaddress.ip_address(text))
