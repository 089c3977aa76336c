"""Brings a backend's ``user_config`` to replicas that run already."""

from __future__ import annotations

from servekit.config import config_digest
from servekit.control.replica import Replica
from servekit.control.state import BackendRecord
from servekit.errors import BackendStartError
from servekit.wire.control_frames import Reconfigure, Reconfigured


def has_todays(replica: Replica) -> bool:
    """Whether the replica's handler has the ``user_config`` of its record."""
    taken = replica.user_config
    return taken.sent is None and taken.digest == config_digest(replica.record.config.user_config)


def refused_todays(replica: Replica) -> str:
    """The traceback of a handler that raised on the ``user_config`` of its record, else an empty text."""
    refused = replica.user_config.refused
    return refused[1] if refused and refused[0] == config_digest(replica.record.config.user_config) else ""


def bring(replica: Replica) -> None:
    """Send it the ``user_config`` of its record, unless it has that, or was sent it, or raised on it."""
    taken, user_config = replica.user_config, replica.record.config.user_config
    digest = config_digest(user_config)
    latest = taken.digest if taken.sent is None else taken.sent[1]
    if latest == digest or refused_todays(replica) or replica.link is None:
        return
    taken.number += 1
    taken.sent = (taken.number, digest)
    replica.link.send(Reconfigure(taken.sent[0], user_config))


def answered(replica: Replica, frame: Reconfigured) -> None:
    """The replica has called its handler's ``reconfigure``."""
    taken = replica.user_config
    if taken.sent is None or taken.sent[0] != frame.number:
        return  # It was sent another since.
    _, digest = taken.sent
    taken.sent = None
    taken.digest = b"" if frame.error else digest
    taken.refused = (digest, frame.error) if frame.error else None


def refused(record: BackendRecord, trace: str) -> BackendStartError:
    """The error for whoever set the ``user_config``."""
    return BackendStartError(
        f"backend {record.name!r}: its handler {record.target_text} did not take over user_config; in the replica:\n\n"
        f"{trace}"
    )
