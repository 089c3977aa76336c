"""The choice of a Ray."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from servekit.errors import InstanceStartError, InvalidInputError, MissingDependencyError
from servekit_ray.driver import DriverRay

ANSWER_TIMEOUT_S = 5.0
"""The time that a cluster may take to accept a connection."""


def require_ray() -> None:
    """Raise `MissingDependencyError` where Ray is not installed. It is not imported."""
    if importlib.util.find_spec("ray") is None:
        raise MissingDependencyError(
            "the runtime 'ray' needs Ray, which is not installed: pip install 'servekit[ray]', or use runtime='process'"
        )


@dataclass(frozen=True)
class Choice:
    """The Ray that was chosen."""

    address: str | None
    """``host:port`` of the GCS; None: a local Ray is to be started."""
    words: str
    """A description for people; the address of a local Ray is added once that has started."""
    driver: DriverRay | None = None
    """Set where the chosen Ray is that of the driver."""


def choose(asked: str | None, driver: DriverRay | None, environ: Mapping[str, str]) -> Choice:
    """Choose a Ray: the one that the user ``asked`` for by the option ``address``, else that of the driver, else the
    cluster that ``RAY_ADDRESS`` names, else a local Ray.

    ``ray.init()`` joins the cluster that ``ray start`` last recorded on this machine, too. Here that is done for
    ``"auto"`` alone, since such a cluster may have ended, or be another user's.

    Raises:
        InvalidInputError: ``asked`` is no address.
        InstanceStartError: nothing answers at the address.
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
    """True where something accepts connections at ``address``, which is ``host:port``."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        raise InvalidInputError(f"address {address!r} is neither 'auto', 'local' nor 'host:port'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_TIMEOUT_S).close()
    except (OSError, OverflowError):
        return False
    return True


def environ_with_tokens(choice: Choice, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that imports Ray for this choice: with Ray's token authentication, where that is
    in use and the user has set no mode.

    Ray reads the mode when it is imported, and does not look for a token by itself where an address is given (2.60).
    """
    # Without this, a call that comes late would make Ray start one all by itself.
    found = {"RAY_ENABLE_AUTO_CONNECT": "0", **environ}
    if choice.address is None or (has_token(environ) if choice.driver is None else choice.driver.tokens):
        found.setdefault("RAY_AUTH_MODE", "token")
    return found


def has_token(environ: Mapping[str, str]) -> bool:
    """True where this user has a token in one of the places where Ray looks for one."""
    if environ.get("RAY_AUTH_TOKEN"):
        return True
    return Path(environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").exists()


def _recorded_address(environ: Mapping[str, str]) -> str:
    """The address that ``ray start`` has recorded on this machine."""
    file = Path(environ.get("RAY_TMPDIR", environ.get("TMPDIR", "/tmp"))) / "ray" / "ray_current_cluster"
    recorded = file.read_text().strip() if file.exists() else ""
    if not recorded:
        raise InstanceStartError(
            f"address='auto', but {file} names no Ray cluster: start one with ray start --head, or say where it is by "
            "RAY_ADDRESS or address='host:port'"
        )
    return recorded
