"""The options of an instance, and the messages to and from its controller's process: plain data, quick to import."""

from __future__ import annotations

from typing import Any

import msgspec

from servekit.config import HttpLimits
from servekit.logs import LogSetup
from servekit.processes import ProcessIdentity


class InstanceOptions(msgspec.Struct, frozen=True):
    """The options that an instance is started with: the arguments of `servekit.init` and of ``servekit start``."""

    name: str
    runtime: str
    runtime_options: dict[str, Any] = {}
    http_host: str | None = "127.0.0.1"
    http_port: int = 0
    ingress_workers: int = 1
    admin_host: str = "127.0.0.1"
    admin_port: int | None = None
    open_metrics: bool = False
    """Metrics need no token."""
    limits: HttpLimits = HttpLimits()
    busy_poll_s: float = 0.0
    debug: bool = False
    drain_delay_s: float = 0.0
    """How long all is served yet, though not ready, when the instance is told to end."""
    drain_timeout_s: float = 10.0
    """How long requests in flight have then to end; what is left is cut off."""
    trusted_proxies: tuple[str, ...] = ()
    """The networks of proxies whose ``X-Forwarded-`` headers are believed."""
    log_level: str = "warning"
    log_format: str = "text"
    access_log: bool = False
    observers: dict[str, dict[str, Any]] = {}
    """The options of each request observer, by its name."""
    gather_output: bool = False
    """What the processes print is gathered in log files, and shown where the controller's output goes."""
    log_file_bytes: int = 10_000_000
    """The length at which a log file is put aside, and another begun."""
    log_files: int = 5
    """How many there are, at the most."""


class InstanceSetup(msgspec.Struct):
    """One instance, as the process that starts it describes it to the control plane."""

    options: InstanceOptions
    instance_id: str
    directory: str
    """For its sockets, and what it needs while it runs."""
    token: bytes
    http_url: str
    """Empty where it answers no HTTP; ``http_fd`` is None then."""
    http_fd: int | None
    sys_path: list[str]
    admin_url: str = ""
    admin_fd: int | None = None
    """A bound TCP socket for the admin API, where one was asked for."""
    standing: bool = False
    state_directory: str = ""
    """Of a standing instance: what it keeps when it ends. Empty: the state is in ``directory``."""
    resumed: bool = False
    """The controller comes after one that has crashed, and whose workers go on."""
    ended: str = ""
    """How that one ended."""
    keeper: ProcessIdentity | None = None
    """Of a standing instance: the process that starts the controller again."""
    log_directory: str = ""
    """The folder for its log files, where there are any."""

    @property
    def logs(self) -> LogSetup:
        return LogSetup(self.options.log_level, self.options.log_format, self.log_directory)


class ProcessSetup(msgspec.Struct):
    """The message to the controller's process, on its standard input."""

    instance: InstanceSetup
    owner_pid: int
    """The process that the instance ends with: the one that called `init`, or ``servekit start``."""
    ready_fd: int
    """A pipe, for the controller's `StartReport`."""


class StartReport(msgspec.Struct):
    """The message from the controller's process: the instance is up, or has failed to start."""

    error: str = ""
    """The class of the error; empty when the instance is up."""
    message: str = ""
    plugins: list[str] = []
    """The plugins in use, and what each gives."""
    runtimes: list[str] = []
    """For each open runtime: where its workers live."""
    problems: list[str] = []
    """Plugins that are not in use, and why."""
    kept: str = ""
    """What an earlier instance of the name had left, and this one goes on with."""
