"""Which Ray to use, and how this process comes to be connected to it."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from servekit.errors import InstanceStartError, InvalidInputError, MissingDependencyError
from servekit_ray.keeper import NAMESPACE

ANSWER_TIMEOUT_S = 5.0
"""How long a cluster's address may take to accept a connection."""
ATTACH_TIMEOUT_S = 40.0
"""How long attaching may take; Ray itself gives up on wrong credentials after 20 s, on a silent peer after minutes."""


def require_unused_ray() -> None:
    """Raise `MissingDependencyError` when Ray is not installed, `InstanceStartError` when this process uses one."""
    if importlib.util.find_spec("ray") is None:
        raise MissingDependencyError(
            "the runtime 'ray' needs Ray, which is not installed: pip install 'servekit[ray]', or use runtime='process'"
        )
    if "ray" in sys.modules and importlib.import_module("ray").is_initialized():
        raise InstanceStartError(
            "this process is connected to a Ray already, and a process can have only one: give every backend with "
            "runtime='ray' the same runtime_options"
        )


def choose_address(asked: str | None, environ: Mapping[str, str]) -> str | None:
    """The ``host:port`` of a cluster that is there, ``"auto"``, or None: start a local Ray.

    What ``ray.init(address=asked)`` would take, except that a recorded cluster that is dead counts as none.
    """
    if asked in (None, "", "auto"):
        asked = environ.get("RAY_ADDRESS") or asked or None
    if asked == "local":
        return None
    if asked is not None and "://" in asked:
        raise InvalidInputError(
            f"address {asked!r} is for the Ray client, which cannot host servekit: run on a node of the cluster and "
            "give address='auto', or its GCS address as 'host:port'"
        )
    if asked in (None, "auto"):
        recorded = _recorded_address(environ)
        return recorded if recorded is not None and answers(recorded) else asked
    assert asked is not None
    if not answers(asked):
        raise InstanceStartError(
            f"no Ray cluster answers at {asked}: does it run (ray start --head), and is that its GCS port (6379)?"
        )
    return asked


def answers(address: str) -> bool:
    """Whether something accepts connections at ``host:port``."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        raise InvalidInputError(f"address {address!r} is neither 'auto', 'local' nor 'host:port'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_TIMEOUT_S).close()
    except (OSError, OverflowError):
        return False
    return True


def use_tokens() -> None:
    """Let Ray's token authentication work for an explicit address too. Call it before the first ``import ray``.

    Ray reads its mode on import, and for an explicit address does not look for a token by itself (2.60).
    A mode that the user has set stays.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    if "ray" in sys.modules:
        _raylet: Any = importlib.import_module("ray._raylet")
        if hasattr(_raylet, "AuthenticationMode"):
            _raylet.Config.initialize("")  # reads it again


def has_token() -> bool:
    """Whether this user has a token, where Ray looks for one."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").exists()


def attach(address: str) -> None:
    """Connect this process to the cluster at ``address``, as a driver that prints what its actors print.

    Raises:
        InstanceStartError: it did not work within `ATTACH_TIMEOUT_S`.
    """
    failures: list[BaseException] = []
    done = threading.Event()

    def connect() -> None:
        try:
            import ray

            # Ray says "SIGTERM handler is not set" at WARNING, and how it connects at INFO.
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=True, logging_level=logging.ERROR)
        except BaseException as error:
            failures.append(error)
        done.set()

    with _kept_signal_action(signal.SIGTERM):
        # Off the main thread Ray leaves Python's handlers alone; and a peer that says nothing cannot block the caller.
        threading.Thread(target=connect, name="servekit-ray-attach", daemon=True).start()
        if not done.wait(ATTACH_TIMEOUT_S):
            raise InstanceStartError(
                f"the Ray cluster at {address} did not take this process in within {ATTACH_TIMEOUT_S:g} s: is this its "
                "GCS port, 6379 by default?"
            )
    if failures:
        raise InstanceStartError(
            f"attaching to the Ray cluster at {address} failed: {_why(failures[0])}"
        ) from failures[0]


def _why(error: BaseException) -> str:
    """Its message, and the last line of what caused it: Ray says there what a wrong token is."""
    reasons = [str(error)]
    if error.__cause__ is not None:
        reasons += str(error.__cause__).strip().splitlines()[-1:]
    return ": ".join(reasons)


@contextmanager
def _kept_signal_action(number: int) -> Iterator[None]:
    """Put the C-level action of a signal back afterwards; from any thread, which `signal.signal` refuses.

    ``ray.init`` installs abseil's failure handler, for SIGTERM too: it prints a stack trace, and aborts the process
    three seconds later if that is still there. A controller that drains would not live to the end of it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    action = ctypes.create_string_buffer(512)  # a struct sigaction, opaque: 152 bytes in glibc on x86-64
    if libc.sigaction(number, None, action) != 0:
        raise OSError(ctypes.get_errno(), f"sigaction({number})")
    try:
        yield
    finally:
        if libc.sigaction(number, action, None) != 0:
            raise OSError(ctypes.get_errno(), f"sigaction({number})")


def _recorded_address(environ: Mapping[str, str]) -> str | None:
    """The address that ``ray start`` left on this machine."""
    directory = environ.get("RAY_TMPDIR", environ.get("TMPDIR", "/tmp"))
    try:
        return (Path(directory) / "ray" / "ray_current_cluster").read_text().strip() or None
    except FileNotFoundError:
        return None
