from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.errors import InvalidInputError
from servekit.http1.proxies import client_of, nearest_of, trust, values

PROXIES = trust(["127.0.0.1", "10.0.0.0/8", "fd00::/8"])
PEER = "127.0.0.1"


def client(*lines: bytes) -> tuple[str, int]:
    return client_of(values([(b"x-forwarded-for", line) for line in lines], b"x-forwarded-for"), PEER, PROXIES)


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", False),
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("fd00::1", True),
        ("::ffff:10.1.2.3", True),
        ("fe80::1%eth0", False),
        ("", False),
        ("proxy", False),
    ],
)
def test_who_is_trusted(address: str, trusted: bool) -> None:
    assert PROXIES(address) is trusted


@pytest.mark.parametrize("proxy", ["proxy", "10.0.0.1/8", "", "10.0.0.0/99", "127.0.0.1:80"])
def test_what_is_no_network_is_refused_by_name(proxy: str) -> None:
    with pytest.raises(InvalidInputError, match=f"trusted_proxies has '{proxy}', which is no address or network"):
        trust([proxy])


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ((), (PEER, 1)),
        ((b"192.0.2.1",), ("192.0.2.1", 1)),
        ((b"192.0.2.1:4711",), ("192.0.2.1", 1)),
        ((b"2001:db8::1",), ("2001:db8::1", 1)),
        ((b"[2001:db8::1]:80",), ("2001:db8::1", 1)),
        ((b"6.6.6.6, 192.0.2.1",), ("192.0.2.1", 1)),
        ((b"6.6.6.6, 192.0.2.1, 10.0.0.1",), ("192.0.2.1", 2)),
        ((b"6.6.6.6", b"192.0.2.1", b" 10.0.0.1 ,10.0.0.2"), ("192.0.2.1", 3)),
        ((b"10.0.0.2, 10.0.0.1",), ("10.0.0.2", 2)),
        ((b"junk, 192.0.2.1",), ("192.0.2.1", 1)),
        ((b"192.0.2.1, junk",), (PEER, 1)),
        ((b"192.0.2.1, junk, 10.0.0.1",), (PEER, 1)),
        ((b"192.0.2.1,",), (PEER, 1)),
        ((b"unknown",), (PEER, 1)),
        ((b"192.0.2.1:4711:1",), (PEER, 1)),
        ((b"[2001:db8::1",), (PEER, 1)),
        ((b"\xff",), (PEER, 1)),
    ],
)
def test_the_client_is_the_last_that_is_no_proxy(lines: tuple[bytes, ...], found: tuple[str, int]) -> None:
    assert client(*lines) == found


def test_the_scheme_and_the_host_are_those_that_the_outermost_proxy_was_asked_for() -> None:
    assert nearest_of([], 1) == b""
    assert nearest_of([b"replaced"], 3) == b"replaced"
    assert nearest_of([b"made up", b"outer", b"inner"], 2) == b"outer"


@given(st.lists(st.sampled_from([b"10.0.0.1", b"127.0.0.1", b"fd00::9"]), max_size=4), st.lists(st.binary(max_size=9)))
def test_what_stands_before_the_client_has_no_say(proxies: list[bytes], made_up: list[bytes]) -> None:
    line = b",".join([*(each.replace(b",", b"") for each in made_up), b"192.0.2.7", *proxies])
    assert client(line) == ("192.0.2.7", len(proxies) + 1)
