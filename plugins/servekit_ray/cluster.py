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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servekit.errors import InstanceStartError, InvalidInputError, MissingDependencyError
from servekit_ray.driver import DriverRay
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


@dataclass(frozen=True)
class Choice:
    """Which Ray it is to be."""

    address: str | None
    """``host:port`` of a GCS; None: a local Ray is to be started."""
    words: str
    """Names it, for people; followed by a local Ray's address once there is one."""
    driver: DriverRay | None = None
    """Set where it is the driver's."""


def choose(asked: str | None, driver: DriverRay | None, environ: Mapping[str, str]) -> Choice:
    """The Ray that the user ``asked`` for by the option ``address``; else the driver's, ``RAY_ADDRESS``, a local one.

    Unlike ``ray.init()``, the cluster that ``ray start`` last recorded on this machine is joined for ``"auto"`` alone:
    it may be dead, or a stranger's.

    Raises:
        InvalidInputError: that is no address.
        InstanceStartError: nothing answers there.
    """
    if not asked and driver is not None:
        return Choice(driver.address, f"the Ray of the calling process, at {driver.address}", driver)
    named = "runtime_options name"
    if asked in (None, "", "auto") and environ.get("RAY_ADDRESS"):
        asked, named = environ["RAY_ADDRESS"], "RAY_ADDRESS names"
    if not asked or asked == "local":
        return Choice(None, "a local Ray of this instance's own, at")
    if asked == "auto":
        asked, named = _recorded_address(environ), "ray start recorded on this machine"
    if "://" in asked:
        raise InvalidInputError(
            f"address {asked!r} is for the Ray client, which cannot host servekit: run on a node of the cluster and "
            "give address='auto', or its GCS address as 'host:port'"
        )
    if not answers(asked):
        raise InstanceStartError(
            f"no Ray cluster answers at {asked}, which {named}: does it run (ray start --head), and is that its GCS "
            "port (6379)? address='local' starts a Ray of the instance's own"
        )
    return Choice(asked, f"the Ray cluster at {asked}, which {named}")


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


def detach() -> None:
    """Let go of the Ray that this process is connected to."""
    import ray

    with _kept_signal_action(signal.SIGTERM):
        ray.shutdown()


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
    ``ray.shutdown`` puts the default action in its place: a controller would not drain at all.
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


def _recorded_address(environ: Mapping[str, str]) -> str:
    """The address that ``ray start`` left on this machine."""
    file = Path(environ.get("RAY_TMPDIR", environ.get("TMPDIR", "/tmp"))) / "ray" / "ray_current_cluster"
    recorded = file.read_text().strip() if file.exists() else ""
    if not recorded:
        raise InstanceStartError(
            f"address='auto', but {file} names no Ray cluster: start one with ray start --head, or say where it is by "
            "RAY_ADDRESS or address='host:port'"
        )
    return recorded
