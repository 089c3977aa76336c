"""Starts a controller's process, and waits until the instance is up."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import socket
import subprocess
import threading
import time

import msgspec

from servekit import errors, logs
from servekit.config import check_plain
from servekit.control.directories import (
    check_spool_directory,
    instance_directory,
    make_state_directory,
    standing_directory,
)
from servekit.control.setup import InstanceOptions, InstanceSetup, ProcessSetup, StartReport
from servekit.control.state import check_name
from servekit.errors import InstanceStartError, InvalidInputError, PortInUseError
from servekit.processes import fill_standard_descriptors, identify, own_sys_path, start_module, working_directory
from servekit.wire.data_frames import DATA_FRAME_BYTES

START_TIMEOUT_S = 120.0
"""A local Ray alone may take long on a busy machine."""
START_FAILED_TIMEOUT_S = 10.0
LOOK_S = 0.1
"""The time between two looks at whether a controller that starts is wanted yet."""
MOST_INGRESS_WORKERS = 64
MOST_BUSY_POLL_S = 0.01
LONGEST_DRAIN_S = 86_400.0
STOP_MARGIN_S = 30.0
"""The time that ending takes beside the drain: handlers' `close()`, runtimes."""
MOST_HEAD_BYTES = DATA_FRAME_BYTES // 4
"""A request's head, and the first part of its body, travel to its replica in one frame."""
LEAST_LOG_FILE_BYTES = 100_000
_BACKLOG = 1024


class Launch:
    """An instance's bound sockets and its directory, and the controller's process that is started with them, again
    where it has crashed.

    Raises `PortInUseError` and `InvalidInputError` before anything is started.
    """

    def __init__(self, options: InstanceOptions, *, standing: bool, lock: int | None = None) -> None:
        """``lock``: a descriptor that the controller has as well: what it locks is held until both have ended."""
        check_options(options)
        working_directory(InstanceStartError)
        sys_path = own_sys_path()
        fill_standard_descriptors()
        with contextlib.ExitStack() as bound:
            http = admin = None
            if options.http_host is not None:
                http = bound.enter_context(bind_tcp(options.http_host, options.http_port, "http_port"))
            if options.admin_port is not None:
                admin = bound.enter_context(bind_tcp(options.admin_host, options.admin_port, "admin_port"))
            instance_id = f"{options.name}-{secrets.token_hex(4)}"
            directory = standing_directory(options.name, make=True) if standing else instance_directory(instance_id)
            state_directory = make_state_directory(options.name) if standing else ""
            self._sockets = bound.pop_all()
        self.setup = InstanceSetup(
            options=options,
            instance_id=instance_id,
            directory=directory,
            token=secrets.token_bytes(32),
            http_url="" if http is None else _url(http),
            http_fd=None if http is None else http.fileno(),
            sys_path=sys_path,
            admin_url="" if admin is None else _url(admin),
            admin_fd=None if admin is None else admin.fileno(),
            standing=standing,
            state_directory=state_directory,
            keeper=identify(os.getpid()) if standing else None,
            # What a standing instance has said is to be read when it has ended, and after a crash of the machine.
            log_directory=os.path.join(state_directory or directory, "logs") if options.gather_output else "",
        )
        self._lock = lock
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start a controller's process; `wait_up` follows."""
        self._ready, say_ready = os.pipe()
        held = (self.setup.http_fd, self.setup.admin_fd, self._lock, say_ready)
        passed = [number for number in held if number is not None]
        told = msgspec.msgpack.encode(ProcessSetup(self.setup, os.getpid(), say_ready))
        try:
            self.process = start_module("servekit.control.process", told, pass_fds=passed)
        except BaseException:
            os.close(self._ready)
            raise
        finally:
            os.close(say_ready)

    def wait_up(self, ending: threading.Event | None = None) -> StartReport:
        """Return when the instance is up. Where it does not come up, or is not to any more, the error is raised, and no
        process is left."""
        try:
            return self._hear(ending)
        except BaseException:
            self.stop(START_FAILED_TIMEOUT_S)
            raise

    def start_again(self, ending: threading.Event, ended: str) -> StartReport:
        """Start a controller in the place of one that crashed, which ``ended`` so. Where it does not come up, or is not
        to any more, an error is raised, and the workers go on."""
        self.setup.resumed, self.setup.ended = True, ended
        self.begin()
        return self._hear(ending)

    def _hear(self, ending: threading.Event | None = None) -> StartReport:
        """Return the controller's report that it is up, or raise the error that it reports; closes the pipe."""
        assert self.process is not None
        ends = time.monotonic() + START_TIMEOUT_S
        said = b""
        with open(self._ready, "rb", buffering=0) as ready:
            while not said.endswith(b"\n"):
                if not select.select([ready], [], [], LOOK_S)[0]:
                    if time.monotonic() > ends:
                        raise InstanceStartError(f"the instance was not up within {START_TIMEOUT_S:g} s")
                    if ending is not None and ending.is_set():
                        raise InstanceStartError("the instance was told to end meanwhile")
                    continue
                piece = ready.read(65536)
                if not piece:
                    code = self.process.wait()
                    raise InstanceStartError(
                        f"the controller ended before it was up (exit code {code}); what it printed is above"
                    )
                said += piece
        report = msgspec.json.decode(said, type=StartReport)
        if report.error:
            raise errors.rebuild(report.error, report.message)
        return report

    def close_sockets(self) -> None:
        """Close this process's sockets; the controller has its own descriptors of them."""
        self._sockets.close()

    def stop(self, timeout_s: float | None = None) -> None:
        """Ask the controller to end the instance, and wait; after ``timeout_s`` the controller is killed. None: as long
        as its options say."""
        if timeout_s is None:
            options = self.setup.options
            timeout_s = options.drain_delay_s + options.drain_timeout_s + STOP_MARGIN_S
        self.close_sockets()
        if self.process is not None:
            if self.process.poll() is None:
                self.process.terminate()
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.setup.directory, ignore_errors=True)


def check_options(options: InstanceOptions) -> None:
    """Raise `InvalidInputError` where no instance can have these options."""
    check_name("instance", options.name)
    _check_port("http_port", options.http_port)
    _check_port("admin_port", 0 if options.admin_port is None else options.admin_port)
    if not 1 <= options.ingress_workers <= MOST_INGRESS_WORKERS:
        raise InvalidInputError(
            f"ingress_workers must be from 1 to {MOST_INGRESS_WORKERS}, not {options.ingress_workers!r}"
        )
    if not 0 <= options.busy_poll_s <= MOST_BUSY_POLL_S:
        raise InvalidInputError(f"busy_poll_s must be from 0 to {MOST_BUSY_POLL_S} s, not {options.busy_poll_s!r}")
    head_bytes = options.limits.headers_bytes + options.limits.request_line_bytes
    if head_bytes > MOST_HEAD_BYTES:
        raise InvalidInputError(
            f"http_limits: headers_bytes and request_line_bytes are at most {MOST_HEAD_BYTES} together, "
            f"not {head_bytes}: a request's head travels to its replica in one frame"
        )
    for option in ("drain_delay_s", "drain_timeout_s"):
        if not 0 <= getattr(options, option) <= LONGEST_DRAIN_S:
            raise InvalidInputError(
                f"{option} must be from 0 to {LONGEST_DRAIN_S:g} s, not {getattr(options, option)!r}"
            )
    if options.trusted_proxies:
        from servekit.http1.proxies import trust

        trust(options.trusted_proxies)
    check_plain("observers", options.observers)
    check_logs(options)
    check_spool_directory(options.limits.spool_directory)


def check_logs(options: InstanceOptions) -> None:
    """Raise `InvalidInputError` where an option says of logs what cannot be."""
    for option, among in (("log_level", logs.LEVELS), ("log_format", logs.FORMATS)):
        value = getattr(options, option)
        if value not in among:
            raise InvalidInputError(f"{option} must be one of {', '.join(among)}, not {value!r}")
    for option, least in (("log_file_bytes", LEAST_LOG_FILE_BYTES), ("log_files", 1)):
        value = getattr(options, option)
        if value < least:
            raise InvalidInputError(f"{option} must be at least {least}, not {value!r}")


def _check_port(option: str, port: int) -> None:
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        raise InvalidInputError(f"{option} must be a number from 0 (any free port) to 65535, not {port!r}")


def bind_tcp(host: str, port: int, option: str) -> socket.socket:
    """A listening socket, without SO_REUSEPORT, which would hide that another instance has the port.

    Raises `InvalidInputError` for what is no port, and `PortInUseError`.
    """
    _check_port(option, port)
    if "/" in host or host.count(":") == 1:
        raise InvalidInputError(
            f"{option.replace('port', 'host')} must be a name or address of this machine alone, as in '127.0.0.1', not "
            f"{host!r}; the port is {option}="
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise PortInUseError(
            f"{host}:{port} cannot be listened on ({error.strerror or error}); "
            f"choose another {option}, or 0 for any free one, or stop what listens there"
        ) from error
    return sock


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
