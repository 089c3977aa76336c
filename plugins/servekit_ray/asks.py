"""The messages between the runtime, in the controller's process, and its agent, which alone calls Ray: a question has a
number, and is answered once.

The agent keeps nothing that a later one could not find again: actors are known by their names.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from servekit.processes import ProcessIdentity

NAMESPACE = "servekit"


class Attach(msgspec.Struct, tag=True):
    """Connect to the Ray at ``address``, ``host:port`` of its GCS. The answer is `Attached`."""

    address: str


class Check(msgspec.Struct, tag=True):
    """Would Ray take these options of an actor? The answer is what is wrong with them; empty: nothing."""

    options: dict[str, Any]


class Nodes(msgspec.Struct, tag=True):
    """The answer is a list of the resources of each node that is alive."""


class Resources(msgspec.Struct, tag=True):
    """The answer is a pair: the resources of the whole cluster, and those that are free."""


class Create(msgspec.Struct, tag=True):
    """Have Ray make an actor, which is to run the worker. There is no answer but an error of Ray's."""

    name: str
    label: str
    options: dict[str, Any]
    worker_module: str
    bootstrap: bytes


class AwaitPlace(msgspec.Struct, tag=True):
    """Wait for up to ``timeout_s`` until the actor has a place. The answer is a `Place`, or None."""

    name: str
    timeout_s: float


class Look(msgspec.Struct, tag=True):
    """Has the process of the actor ended? The answer is Ray's words about that; empty: it is there."""

    name: str


class Kill(msgspec.Struct, tag=True):
    """Have Ray kill the actor, which may have ended. There is no answer."""

    name: str
    is_asked_for: bool
    """`Look` follows."""


class EndAll(msgspec.Struct, tag=True):
    """Have Ray kill the actors that are left of the instance. There is no answer."""


Ask: TypeAlias = Attach | Check | Nodes | Resources | Create | AwaitPlace | Look | Kill | EndAll


class Attached(msgspec.Struct):
    """The Ray that the agent is connected to."""

    session: str
    """Ray's name for it; one that was started in its place has another."""
    host: str
    """The address of this machine within the cluster."""
    raylet: ProcessIdentity | None
    """Ray's process on this machine, with which all workers here end; None where its pid is not one of ours."""


class Place(msgspec.Struct):
    """Where an actor's process is."""

    machine: str
    node_id: str
    pid: int
    start_ticks: int


def machine() -> str:
    """The name of that part of the world in which a pid means one process: this boot, and the namespace of pids."""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{os.stat('/proc/self/ns/pid').st_ino}"


class Question(msgspec.Struct, array_like=True):
    number: int
    ask: Ask


class Answer(msgspec.Struct, array_like=True):
    number: int
    value: Any = None
    error: str = ""
    """The message of what Ray raised, in the place of a value."""


class Told(msgspec.Struct):
    """What an agent is started with, on its command line."""

    pipe_fd: int
    prefix: str
    """Of the names of the instance's actors."""
    owned: bool
    """The instance ends with the process that has started the agent, however that ends."""
