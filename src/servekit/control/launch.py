"""Starts a controller's process, and finds standing instances again."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import socket
import subprocess
import time

import msgspec

from servekit import errors
from servekit.control.directories import check_spool_directory, make_directory, standing_directory
from servekit.control.setup import InstanceOptions, InstanceSetup, ProcessSetup, StartReport
from servekit.control.state import check_name
from servekit.errors import InstanceStartError, InvalidInputError, PortInUseError
from servekit.processes import (
    fill_standard_descriptors,
    own_sys_path,
    start_module,
    working_directory,
)
from servekit.wire.data_frames import DATA_FRAME_BYTES

START_TIMEOUT_S = 120.0
"""A local Ray alone may take long on a busy machine."""
START_FAILED_TIMEOUT_S = 10.0
MOST_INGRESS_WORKERS = 64
MOST_BUSY_POLL_S = 0.01
MOST_HEAD_BYTES = DATA_FRAME_BYTES // 4
"""A request's head, and the first part of its body, travel to its replica in one frame."""
_BACKLOG = 1024


class Launch:
    """An instance's sockets, bound, and its directory: what a controller's process is started with, again if need be.

    Raises `PortInUseError` before anything is started.
    """

    def __init__(self, options: InstanceOptions, *, standing: bool) -> None:
        check_name("instance", options.name)
        if not 1 <= options.ingress_workers <= MOST_INGRESS_WORKERS:
            raise InvalidInputError(
                f"ingress_workers is from 1 to {MOST_INGRESS_WORKERS}, not {options.ingress_workers!r}"
            )
        if not 0 <= options.busy_poll_s <= MOST_BUSY_POLL_S:
            raise InvalidInputError(f"busy_poll_s is from 0 to {MOST_BUSY_POLL_S} s, not {options.busy_poll_s!r}")
        head_bytes = options.limits.headers_bytes + options.limits.request_line_bytes
        if head_bytes > MOST_HEAD_BYTES:
            raise InvalidInputError(
                f"http_limits: headers_bytes and request_line_bytes are at most {MOST_HEAD_BYTES} together, "
                f"not {head_bytes}: a request's head travels to its replica in one frame"
            )
        check_spool_directory(options.limits.spool_directory)
        working_directory(InstanceStartError)
        sys_path = own_sys_path()
        fill_standard_descriptors()
        with contextlib.ExitStack() as undo:
            self._http = undo.enter_context(bind_tcp(options.http_host, options.http_port, "http_port"))
            self._admin: socket.socket | None = None
            if options.admin_port is not None:
                self._admin = undo.enter_context(bind_tcp("127.0.0.1", options.admin_port, "admin_port"))
            instance_id = f"{options.name}-{secrets.token_hex(4)}"
            directory = standing_directory(options.name) if standing else make_directory(instance_id)
            undo.pop_all()
        self.setup = InstanceSetup(
            options=options,
            instance_id=instance_id,
            directory=directory,
            token=secrets.token_bytes(32),
            http_url=_url(self._http),
            http_fd=self._http.fileno(),
            sys_path=sys_path,
            admin_url="" if self._admin is None else _url(self._admin),
            standing=standing,
        )
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start a controller's process; `wait_up` follows."""
        self.process, self._ready = _spawn(self.setup, self._admin)

    def wait_up(self) -> StartReport:
        """Return when the instance is up. Raises what kept it from that, and nothing is left."""
        try:
            return self._hear()
        except BaseException:
            self.stop(START_FAILED_TIMEOUT_S)
            raise

    def start_again(self) -> StartReport:
        """A controller in the place of one that crashed; when it does not come up, the workers go on."""
        self.begin()
        return self._hear()

    def _hear(self) -> StartReport:
        """What the controller says once it is up. Raises what it says kept it from that, and closes the pipe."""
        assert self.process is not None
        ends = time.monotonic() + START_TIMEOUT_S
        said = b""
        with open(self._ready, "rb", buffering=0) as ready:
            while not said.endswith(b"\n"):
                left_s = ends - time.monotonic()
                if left_s <= 0 or not select.select([ready], [], [], left_s)[0]:
                    raise InstanceStartError(f"the instance was not up within {START_TIMEOUT_S:g} s")
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
        """Leave the sockets to the controller."""
        self._http.close()
        if self._admin is not None:
            self._admin.close()

    def stop(self, timeout_s: float) -> None:
        """Ask the controller to end the instance, and wait; what it leaves after ``timeout_s`` is killed."""
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


def _spawn(setup: InstanceSetup, admin: socket.socket | None) -> tuple[subprocess.Popen[bytes], int]:
    ready_read, ready_write = os.pipe()
    told = ProcessSetup(setup, os.getpid(), None if admin is None else admin.fileno(), ready_write)
    passed = [setup.http_fd, ready_write, *([] if admin is None else [admin.fileno()])]
    try:
        process = start_module("servekit.control.process", msgspec.msgpack.encode(told), pass_fds=passed)
    except BaseException:
        os.close(ready_read)
        raise
    finally:
        os.close(ready_write)
    return process, ready_read


def bind_tcp(host: str, port: int, option: str) -> socket.socket:
    """A listening socket. Bound plainly: a second instance on the port is an error, which SO_REUSEPORT would hide."""
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        raise InvalidInputError(f"{option} is a number from 0 (any free port) to 65535, not {port!r}")
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
