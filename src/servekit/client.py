"""Clients of a controller's admin API, for the Python API and the command line."""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol

import httpx
import msgspec

from servekit import errors
from servekit.backoff import Backoff
from servekit.config import check_plain, short
from servekit.errors import ControllerGoneError, InvalidInputError
from servekit.forks import PerProcess

_CONNECT_TIMEOUT_S = 5.0
RESTART_TIMEOUT_S = 30.0
"""How long an operation waits for a standing instance's controller to be started again."""
ONCE = ("create_", "delete_", "apply", "rollback", "cancel_", "stop_")
"""Operations that would fail where they had been done before."""


def who() -> str:
    """This process, for people who want to know who made a change."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"user {os.getuid()}"
    return f"{user}@{socket.gethostname()} (pid {os.getpid()})".encode("ascii", "replace").decode()


class Client(Protocol):
    """Calls operations of an instance. Safe to use from several threads."""

    def call(self, operation: str, **arguments: Any) -> Any:
        """The operation's result. Raises the `ServekitError` that the controller raised, or `ControllerGoneError`."""

    def close(self) -> None: ...


class AdminClient:
    """A `Client` over the admin API's Unix socket; in a forked child, over a connection of the child's own."""

    def __init__(self, socket_path: str, token: bytes, standing: Callable[[], object] | None = None) -> None:
        """``standing``: raises where the instance is gone whose controller, if it crashes, is started again."""
        self._socket_path = socket_path
        self._token = token
        self._standing = standing
        # Two processes on one connection would read each other's answers.
        self._http = PerProcess(self._connect)

    def _connect(self) -> httpx.Client:
        # Operations are bounded by the controller (a backend's startup_timeout_s, say), so reading is not bounded here.
        return httpx.Client(
            # No certificates or proxies are used here, and SSL_CERT_FILE may name a file that is not there.
            transport=httpx.HTTPTransport(uds=self._socket_path, verify=False, trust_env=False),
            trust_env=False,
            base_url="http://servekit/v1/",
            headers={
                "authorization": f"Bearer {self._token.hex()}",
                "content-type": "application/msgpack",
                "x-servekit-client": who(),
            },
            timeout=httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S),
        )

    def call(self, operation: str, **arguments: Any) -> Any:
        """As `Client.call`. While the controller of a standing instance is started again, an operation waits that was
        not sent, or that may be done twice. Raises `ControllerGoneError`."""
        body = encode(operation, arguments)
        ends = time.monotonic() + RESTART_TIMEOUT_S
        pauses = Backoff(0.05, 1.0)
        while True:
            try:
                response = self._http.get().post(operation, content=body)
                break
            except httpx.TransportError as error:
                sent = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
                if self._standing is None or (sent and operation.startswith(ONCE)) or time.monotonic() > ends:
                    raise ControllerGoneError(_advice(operation, error, sent, self._standing is not None)) from error
                self._standing()
                time.sleep(pauses.next())
        answer = json.loads(response.content)
        if response.status_code != 200:
            raise errors.rebuild(answer["error"], answer["message"])
        return answer

    def close(self) -> None:
        http = self._http.made()
        if http is not None:
            http.close()


def encode(operation: str, arguments: dict[str, Any]) -> bytes:
    """Arguments as they travel. Raises `InvalidInputError`, which names the one that cannot."""
    try:
        return msgspec.msgpack.encode(arguments)
    except Exception:
        for name, value in arguments.items():
            try:
                msgspec.msgpack.encode(value)
            except Exception as error:
                check_plain(f"{operation}(): {name}", value)
                raise InvalidInputError(f"{operation}(): {name} cannot be sent, {short(value)}: {error}") from None
        raise


def _advice(operation: str, error: Exception, sent: bool, standing: bool) -> str:
    gone = f"the controller of this instance cannot be reached ({error})"
    if not standing:
        return f"{gone}; if it crashed, call servekit.shutdown() and servekit.init() again"
    if sent:
        return f"{gone}: it ended while it did {operation}(), which may be done or not: servekit.status() shows what is"
    return f"{gone}, and was not started again within {RESTART_TIMEOUT_S:g} s; see what `servekit start` printed"


class DirectClient:
    """A `Client` of a controller in this process. Arguments and results are encoded as well."""

    def __init__(self, run: Callable[[str, bytes], bytes]) -> None:
        """``run`` runs an operation of `servekit.control.operations` on the controller's loop."""
        self._run = run

    def call(self, operation: str, **arguments: Any) -> Any:
        return msgspec.json.decode(self._run(operation, encode(operation, arguments)))

    def close(self) -> None: ...
