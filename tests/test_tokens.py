"""The read-only token follows from the other, and not the other way round."""

from __future__ import annotations

import os

from servekit.tokens import read_only


def test_each_instance_has_its_own_and_it_stays() -> None:
    token, other = os.urandom(32), os.urandom(32)
    assert read_only(token) == read_only(token)
    assert len({token, other, read_only(token), read_only(other), read_only(read_only(token))}) == 5
