"""Pages that servekit answers by itself, in a browser."""

from __future__ import annotations

from typing import Any

import pytest
from tests.hostile.rfc_cases import get

PAGES = {
    "routes": get(target=b"/-/routes"),
    "health": get(target=b"/-/healthz"),
    "types": get(target=b"/-/openapi.json"),
    "options": get(method=b"OPTIONS"),
    "no such page": get(target=b"/-/x"),
    "no such page, in JSON": get(b"Accept: application/json\r\n", b"/-/x"),
    "no such method": get(method=b"PUT"),
    "malformed": get(host=b""),
}


def head_of(front: Any, data: bytes) -> bytes:
    with front.connect() as client:
        client.sendall(data)
        head: bytes = client.recv(65536).partition(b"\r\n\r\n")[0] + b"\r\n"
        return head


@pytest.mark.parametrize("name", PAGES)
def test_no_browser_guesses_at_their_type(front: Any, name: str) -> None:
    assert b"\r\nx-content-type-options: nosniff\r\n" in head_of(front, PAGES[name])


def test_a_handler_says_that_for_itself(front: Any) -> None:
    assert b"nosniff" not in head_of(front, get())
