"""A steady load while a test does something else, and what became of each request of it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpx

from servekit.errors import InvalidInputError

if TYPE_CHECKING:
    from typing_extensions import Self

MOST_CLIENTS = 64
MOST_RATE_PER_S = 10_000.0
MOST_SHOWN = 20
"""So many failures are told of; of the others, how many they are."""
FIRST_ANSWER_TIMEOUT_S = 1.0
"""How long the block waits for the load to be under way. A block may itself be what the first answer waits for."""
JOIN_TIMEOUT_S = 60.0
MORE_TIMEOUT_S = 30.0
_TEXT_SHOWN = 200


@dataclass(frozen=True)
class Failure:
    """A request that was not answered, or with a status of 400 or more."""

    sent_s: float
    """Seconds after the load began."""
    request_id: str
    what: str
    """``status 503: …``, or ``ReadTimeout: …``."""

    def __str__(self) -> str:
        return f"sent after {self.sent_s:.3f} s, request id {self.request_id}: {self.what}"


class SteadyLoad:
    """Several clients that send one request again and again, at a steady rate, as long as the block runs.

    Each sends a last one after the block, so that what the block did at its end is seen as well. Then `AssertionError`
    tells of what failed. An exception of the block goes on in its place, with that as a note where Python has notes.
    """

    def __init__(
        self,
        new_client: Callable[[], httpx.Client],
        name: str,
        path: str,
        *,
        method: str = "GET",
        rate_per_s: float = 100.0,
        clients: int = 3,
        **request: Any,
    ) -> None:
        if not 1 <= clients <= MOST_CLIENTS:
            raise InvalidInputError(f"clients is from 1 to {MOST_CLIENTS}, not {clients!r}")
        if not 0 < rate_per_s <= MOST_RATE_PER_S:
            raise InvalidInputError(f"rate_per_s is above 0 and at most {MOST_RATE_PER_S:g}, not {rate_per_s!r}")
        with new_client() as client:
            client.build_request(method, path, **request)  # What is wrong with it is wrong with every one.
        self._new_client = new_client
        self._name = name
        self._path = path
        self._method = method
        self._headers = httpx.Headers(request.pop("headers", None))
        self._request = request
        self._pause_s = clients / rate_per_s
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._failed = 0
        self._shown: list[Failure] = []
        self._answered = 0
        self._threads = [
            threading.Thread(target=self._run, args=(n / rate_per_s,), name=f"{name}-client{n}", daemon=True)
            for n in range(clients)
        ]

    # -- in the block -----------------------------------------------------------------------------------------

    @property
    def answered(self) -> int:
        """Requests that were answered with a status below 400, to now."""
        return self._answered

    @property
    def failures(self) -> list[Failure]:
        """The first ones, at most 20."""
        with self._changed:
            return self._shown[:]

    def more(self, count: int = 20, timeout_s: float = MORE_TIMEOUT_S) -> None:
        """Return when that many more were answered. Raises `AssertionError` once one failed, or after ``timeout_s``."""
        with self._changed:
            wanted = self._answered + count
            self._changed.wait_for(lambda: self._failed or self._answered >= wanted, timeout_s)
            missing = wanted - self._answered
        if missing > 0:
            raise AssertionError(self._report() if self._failed else f"{missing} of {count} did not come in time")

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._failed or self._answered, FIRST_ANSWER_TIMEOUT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        self._over.set()
        ends = time.monotonic() + JOIN_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(ends - time.monotonic(), 0))
            if thread.is_alive():
                self._fail(ends, "", f"{thread.name} has not ended within {JOIN_TIMEOUT_S:g} s")
        if self._answered and not self._failed:
            return
        if error is None:
            raise AssertionError(self._report())
        add_note = getattr(error, "add_note", None)  # Python 3.11
        if add_note is not None:
            add_note(self._report())

    def _report(self) -> str:
        with self._changed:
            shown, failed, answered = self._shown[:], self._failed, self._answered
        head = f"{failed} of {failed + answered} requests failed: {self._method} {self._path}"
        if not answered:
            head = f"no request succeeded, of {failed} that were tried: {self._method} {self._path}"
        hidden = [f"… and {failed - len(shown)} more"] if failed > len(shown) else []
        return "\n  ".join([head, *map(str, shown), *hidden])

    # -- on the clients' threads ------------------------------------------------------------------------------

    def _run(self, first_s: float) -> None:
        due = self._began + first_s
        try:
            with self._new_client() as client:
                while not self._over.wait(max(due - time.monotonic(), 0)):
                    self._send(client)
                    # After a pause it goes on at its rate: what it has missed is not made up for.
                    due = max(due + self._pause_s, time.monotonic())
                self._send(client)
        except Exception as error:
            self._fail(time.monotonic(), "", f"no request was sent: {type(error).__name__}: {error}")

    def _send(self, client: httpx.Client) -> None:
        request_id = f"{self._name}-{next(self._numbers)}"
        headers = httpx.Headers(self._headers)
        headers["x-request-id"] = request_id
        sent = time.monotonic()
        try:
            response = client.request(self._method, self._path, headers=headers, **self._request)
        except Exception as error:
            self._fail(sent, request_id, f"{type(error).__name__}: {error}")
            return
        if response.status_code >= 400:
            self._fail(sent, request_id, f"status {response.status_code}: {response.text[:_TEXT_SHOWN].strip()}")
            return
        with self._changed:
            self._answered += 1
            self._changed.notify_all()

    def _fail(self, sent: float, request_id: str, what: str) -> None:
        with self._changed:
            self._failed += 1
            if len(self._shown) < MOST_SHOWN:
                self._shown.append(Failure(sent - self._began, request_id, what))
            self._changed.notify_all()
