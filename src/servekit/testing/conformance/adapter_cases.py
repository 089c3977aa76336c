"""What the cases for adapters are made with: the ways to an adapter, and what its claims leave out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest

from servekit.testing.conformance.adapter_claims import AdapterClaims
from servekit.testing.conformance.drawing import for_all
from servekit.testing.conformance.exchanges import Seen
from servekit.testing.conformance.on_loop import OnLoop
from servekit.testing.conformance.ways import Direct, Http, Way, made


class AdapterCases(AdapterClaims):
    """The fixtures of the cases."""

    @pytest.fixture(params=["call", "decode_encode", "http"])
    def way(self, request: pytest.FixtureRequest) -> Iterator[Way]:
        """How the adapter is reached."""
        if request.param == "http":
            yield Http(self, request.getfixturevalue("serve_instance"))
            return
        with contextlib.closing(self._direct(parts=request.param == "decode_encode")) as way:
            yield way

    @pytest.fixture(params=["call", "decode_encode"])
    def direct(self, request: pytest.FixtureRequest) -> Iterator[Direct]:
        """The ways that leave out all but the adapter."""
        with contextlib.closing(self._direct(parts=request.param == "decode_encode")) as way:
            yield way

    def _direct(self, parts: bool = False) -> Direct:
        if parts and self.only_call:
            pytest.skip("only_call: decode and encode do nothing without call")
        adapter = made(self)
        if not adapter.is_async:
            return Direct(self, adapter, parts)
        if parts:
            adapter.close()
            pytest.skip("is_async: the adapter is called by call_async alone")
        return OnLoop(self, adapter)

    def _need(self, claim: str) -> None:
        if not getattr(self, claim):
            pytest.skip(f"the adapter does not claim {claim}")

    def _for_all(self, check: Callable[..., None], *strategies: Any) -> None:
        for_all(check, *strategies, max_examples=self.max_examples)


def fails(error: BaseException, seen: Seen) -> NoReturn:
    """What a handler does that fails."""
    raise error
