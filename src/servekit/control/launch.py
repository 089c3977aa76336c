"""Starts a controller's process, and finds standing instances again."""

from __future__ import annotations

import os
import secrets
import select
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from servekit import errors
from servekit.config import HttpLimits
from servekit.control.process import ProcessSetup, Ready
from servekit.control.service import InstanceSetup
from servekit.errors import InstanceStartError, InvalidInputError, PortInUseError
from servekit.targets import own_sys_path

START_TIMEOUT_S = 120.0
"""A local Ray alone may take long on a busy machine."""
_BACKLOG = 1024


class Launched:
    """A controller's process that this one started."""

    def __init__(self, process: subprocess.Popen[bytes], setup: InstanceSetup, admin_url: str | None) -> None:
        self.process = process
        self.setup = setup
        self.admin_url = admin_url
        self.problems: list[str] = []

    def stop(self, timeout_s: float) -> None:
        """Ask the controller to end the instance, and wait; what it leaves after ``timeout_s`` is killed."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.setup.directory, ignore_errors=True)


def launch(
    *,
    name: str,
    runtime: str,
    runtime_options: Mapping[str, Any],
    http_host: str,
    http_port: int,
    ingress_workers: int,
    admin_port: int | None,
    limits: HttpLimits,
    debug: bool,
) -> Launched:
    """Start an owned instance: it ends when this process does. Returns at once; `wait_ready` follows.

    Raises `PortInUseError` before anything is started.
    """
    http = bind_tcp(http_host, http_port, "http_port")
    try:
        admin = None if admin_port is None else bind_tcp("127.0.0.1", admin_port, "admin_port")
    except BaseException:
        http.close()
        raise
    with http:
        instance_id = f"{name}-{secrets.token_hex(4)}"
        setup = InstanceSetup(
            name=name,
            instance_id=instance_id,
            directory=make_directory(instance_id),
            token=secrets.token_bytes(32),
            runtime=runtime,
            runtime_options=dict(runtime_options),
            http_url=_url(http),
            http_fd=http.fileno(),
            ingress_workers=ingress_workers,
            limits=limits,
            sys_path=own_sys_path(),
            debug=debug,
        )
        process, ready = _spawn(setup, os.getpid(), admin)
        admin_url = None if admin is None else _url(admin)
        if admin is not None:
            admin.close()
    launched = Launched(process, setup, admin_url)
    try:
        launched.problems = _wait_ready(ready, process).problems
    except BaseException:
        launched.stop(10.0)
        raise
    finally:
        os.close(ready)
    return launched


def _spawn(
    setup: InstanceSetup, owner_pid: int | None, admin: socket.socket | None
) -> tuple[subprocess.Popen[bytes], int]:
    ready_read, ready_write = os.pipe()
    told = ProcessSetup(setup, owner_pid, None if admin is None else admin.fileno(), ready_write)
    passed = [setup.http_fd, ready_write, *([] if admin is None else [admin.fileno()])]
    # A file in memory: it cannot block, and is in neither argv nor the environment.
    memory = os.memfd_create("servekit-setup")
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(msgspec.msgpack.encode(told))
        os.lseek(memory, 0, os.SEEK_SET)
        process = subprocess.Popen(
            [sys.executable, "-m", "servekit.control.process"],
            stdin=memory,
            pass_fds=passed,
            start_new_session=True,  # Ctrl-C is for the owner; the instance ends with it.
        )
    except BaseException:
        os.close(ready_read)
        raise
    finally:
        os.close(memory)
        os.close(ready_write)
    return process, ready_read


def _wait_ready(ready: int, process: subprocess.Popen[bytes]) -> Ready:
    ends = time.monotonic() + START_TIMEOUT_S
    said = b""
    while not said.endswith(b"\n"):
        left_s = ends - time.monotonic()
        if left_s <= 0 or not select.select([ready], [], [], left_s)[0]:
            raise InstanceStartError(f"the instance was not up within {START_TIMEOUT_S:g} s")
        piece = os.read(ready, 65536)
        if not piece:
            raise InstanceStartError(
                f"the controller ended before it was up (exit code {process.wait()}); what it printed is above"
            )
        said += piece
    answer = msgspec.json.decode(said, type=Ready)
    if answer.error:
        raise errors.rebuild(answer.error, answer.message)
    return answer


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


def make_directory(instance_id: str) -> str:
    """A new directory of mode 0700 for an instance's sockets and state, in one that is this user's alone."""
    base = os.path.join(tempfile.gettempdir(), f"servekit-{os.getuid()}")
    os.makedirs(base, mode=0o700, exist_ok=True)
    found = os.lstat(base)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InstanceStartError(
            f"{base} is not a directory that only this user can enter; remove it, or set TMPDIR to another place"
        )
    path = os.path.join(base, instance_id)
    os.mkdir(path, 0o700)
    return path


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
