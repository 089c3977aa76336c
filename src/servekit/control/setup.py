"""What an instance is, and what its controller's process is told and says: plain data, quick to import."""

from __future__ import annotations

from typing import Any

import msgspec

from servekit.config import HttpLimits


class InstanceOptions(msgspec.Struct, frozen=True):
    """What an instance is started with: the arguments of `servekit.init` and of ``servekit start``."""

    name: str
    runtime: str
    runtime_options: dict[str, Any] = {}
    http_host: str = "127.0.0.1"
    http_port: int = 0
    ingress_workers: int = 1
    admin_port: int | None = None
    limits: HttpLimits = HttpLimits()
    busy_poll_s: float = 0.0
    debug: bool = False


class InstanceSetup(msgspec.Struct):
    """What an instance is, as whoever starts it says."""

    options: InstanceOptions
    instance_id: str
    directory: str
    token: bytes
    http_url: str
    http_fd: int
    sys_path: list[str]
    admin_url: str = ""
    standing: bool = False


class ProcessSetup(msgspec.Struct):
    """What the controller's process is told on standard input."""

    instance: InstanceSetup
    owner_pid: int
    """The process that the instance ends with: the one that called `init`, or ``servekit start``."""
    admin_fd: int | None
    """A bound TCP socket for the admin API, when one was asked for."""
    ready_fd: int
    """A pipe on which to say that all is up, or what went wrong."""


class StartReport(msgspec.Struct):
    """What is said on that pipe."""

    error: str = ""
    """The class of an error; empty when all is well."""
    message: str = ""
    plugins: list[str] = []
    """The plugins in use, and what each gives."""
    runtimes: list[str] = []
    """Where the workers of those that are open live."""
    problems: list[str] = []
    """Plugins that are not in use, and why."""
