"""Load from several clients, and a view of the machine's processes."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from tests.support.waiting import until

import servekit as serve

# -- an instance ---------------------------------------------------------------------------------------------------


def attach() -> serve.Instance:
    """The standing instance, made current."""
    serve.shutdown()
    return serve.init(address="auto")


def empty(instance: serve.Instance) -> None:
    """Delete all that it serves."""
    for name in instance.list_endpoints():
        instance.delete_endpoint(name)
    for name in instance.list_backends():
        instance.delete_backend(name)


def replicas(instance: serve.Instance, backend: str) -> list[dict[str, Any]]:
    """Those that are ready."""
    found = instance.status()["backends"][backend]["replicas"]
    return [replica for replica in found if replica["state"] == "ready"]


def pids(instance: serve.Instance, backend: str) -> set[int]:
    return {replica["pid"] for replica in replicas(instance, backend)}


def whole(instance: serve.Instance) -> dict[str, Any]:
    """`status()` without what changes by itself, and the targets that are kept."""
    status = instance.status()
    for endpoint in status["endpoints"].values():
        del endpoint["parked"]
    for backend in status["backends"].values():
        del backend["queued"]
        for replica in backend["replicas"]:
            del replica["outstanding"], replica["busy_s"], replica["memory_bytes"]
    return {**status, "targets": sorted(os.listdir(f"{instance.directory}/targets"))}


def fresh_get(url: str, timeout_s: float = 60.0) -> httpx.Response:
    """The answer to a GET on a connection of its own."""
    return httpx.get(url, timeout=timeout_s, verify=False)  # reading certificates takes longer than all the rest


# -- load ----------------------------------------------------------------------------------------------------------


class Load:
    """Several clients that each send requests to one path, one after another, for as long as the block runs.

    A handler that answers as `instance_handlers.Named` does is expected.
    """

    def __init__(
        self, instance: serve.Instance, path: str, *, clients: int = 4, methods: Sequence[str] = ("GET", "POST")
    ) -> None:
        self._netloc = urllib.parse.urlsplit(instance.url).netloc
        self._path = path
        self._methods = methods
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(clients)]
        self._over = threading.Event()
        self.answers: list[dict[str, Any]] = []
        self.failures: list[str] = []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.more()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int = 60) -> list[dict[str, Any]]:
        """That many more answers, once they are there."""
        before = len(self.answers)
        until(lambda: self.failures or len(self.answers) >= before + count)
        assert not self.failures, self.failures[:3]
        return self.answers[before:]

    def _send(self, client: int) -> None:
        connection = http.client.HTTPConnection(self._netloc, timeout=60)
        try:
            for number, method in zip(itertools.count(), itertools.cycle(self._methods)):
                if self._over.is_set():
                    return
                sent = f"{client}-{number}"
                self._exchange(connection, method, sent)
                time.sleep(0.001)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.failures.append(f"client {client}: {type(error).__name__}: {error}")
        finally:
            connection.close()

    def _exchange(self, connection: http.client.HTTPConnection, method: str, sent: str) -> None:
        if method == "POST":
            connection.request(method, self._path, sent)
        else:
            connection.request(method, f"{self._path}?{sent}")
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            self.failures.append(f"{method} {sent}: {response.status} {body.decode()}")
            return
        answer = json.loads(body)
        if answer["sent"] != sent:
            self.failures.append(f"{method} {sent}: the answer to {answer['sent']}")
        self.answers.append(answer)


# -- slow clients --------------------------------------------------------------------------------------------------


class Slow:
    """A client that takes little: the kernel holds next to nothing for it."""

    def __init__(self, instance: serve.Instance, request: bytes) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(60)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        self.socket.connect(("127.0.0.1", urllib.parse.urlsplit(instance.url).port))
        self.socket.sendall(request)

    def __enter__(self) -> Slow:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def begin(self) -> int:
        """Read the head of the answer; its status."""
        self.response = http.client.HTTPResponse(self.socket)
        self.response.begin()
        return self.response.status

    def rest(self) -> bytes:
        """Read all of its body."""
        return self.response.read()


def get(path: str) -> bytes:
    """A request, as it is sent."""
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def put(path: str, length: int, sent: int) -> bytes:
    """A request, and the first part of its body."""
    return f"PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n".encode() + bytes(sent)


# -- processes -----------------------------------------------------------------------------------------------------


class Process:
    """One process, told from a later one with its pid by the moment it started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        fields = _stat(pid)
        self._started = fields[19] if fields else ""

    def __repr__(self) -> str:
        try:
            line = Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            line = ""
        return f"<process {self.pid} {line.strip()[:120]}>"

    @property
    def is_there(self) -> bool:
        """Whether it is, and no zombie."""
        fields = _stat(self.pid)
        return bool(fields) and fields[19] == self._started and fields[0] not in "ZX"


def parent(pid: int) -> int:
    return int(_stat(pid)[1])


def descendants(pid: int) -> list[Process]:
    """Every process below this one."""
    children: dict[int, list[int]] = {}
    for other in _all_pids():
        fields = _stat(other)
        if fields:
            children.setdefault(int(fields[1]), []).append(other)
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        todo += below
        found += [Process(other) for other in below]
    return [process for process in found if process.is_there]


def controller(keeper: subprocess.Popen[str]) -> int:
    """The pid of the controller of a standing instance."""
    (process,) = [p for p in descendants(keeper.pid) if "servekit: controller of" in repr(p)]
    return process.pid


START = [sys.executable, "-m", "servekit.cli.main", "start", "--runtime", "process", "--http-port", "0"]


def refused_start() -> str:
    """What ``servekit start`` says that cannot; in a process of its own, whose logging it sets up."""
    done = subprocess.run(START, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    return done.stderr


@contextlib.contextmanager
def started_standing(*options: str) -> Iterator[subprocess.Popen[str]]:
    """``servekit start``, which is up; killed at the end, where it is there yet."""
    with subprocess.Popen([*START, *options], stdout=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdout is not None
        try:
            assert "answers at http://127.0.0.1:" in keeper.stdout.readline()
            yield keeper
        finally:
            keeper.kill()


def marked(mark: str) -> list[Process]:
    """Every process with this text in its environment, which children inherit, or in its command line."""
    found = []
    for pid in _all_pids():
        for file in ("environ", "cmdline"):
            with contextlib.suppress(OSError):
                if mark.encode() in Path(f"/proc/{pid}/{file}").read_bytes():
                    found.append(Process(pid))
                    break
    return [process for process in found if process.is_there]


def end_all(processes: Iterable[Process]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> list[str]:
    """``/proc/PID/stat`` from field 3 on; nothing where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


# -- scripts -------------------------------------------------------------------------------------------------------


class Scripts:
    """User scripts, run from a folder that is also their TMPDIR."""

    def __init__(self, folder: Path, mark: str) -> None:
        self.folder = folder
        self.mark = mark
        self._running: list[subprocess.Popen[str]] = []

    @property
    def instances(self) -> list[str]:
        """The directories of instances that are there."""
        base = self.folder / f"servekit-{os.getuid()}"
        return os.listdir(base) if base.exists() else []

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def start(self, script: Path, *arguments: str, cwd: str = "/", **environ: str) -> subprocess.Popen[str]:
        """Without ``RAY_ADDRESS`` in ``environ``, an instance on Ray starts a Ray of its own."""
        return self._start([sys.executable, str(script), *arguments], cwd, environ)

    def shell(self, line: str) -> subprocess.Popen[str]:
        """Run a shell's line in the folder; ``$PYTHON`` is the interpreter, ``$TOLD`` a file to tell something in."""
        return self._start(["bash", "-c", line], str(self.folder), {})

    def _start(self, command: Sequence[str], cwd: str, more: Mapping[str, str]) -> subprocess.Popen[str]:
        environ = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        environ |= {"SERVEKIT_TESTS_MARK": self.mark, "TMPDIR": str(self.folder)}
        environ["XDG_STATE_HOME"] = str(self.folder)
        environ |= {"PYTHON": sys.executable, "TOLD": str(self.folder / "told"), **more}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd, env=environ
        )
        self._running.append(process)
        return process

    def processes(self) -> list[Process]:
        """Every process that came of the scripts and is there."""
        return list({p.pid: p for p in [*marked(self.mark), *marked(f"{self.folder}/")]}.values())

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.wait(60)
            assert process.stdout is not None
            process.stdout.close()


@contextlib.contextmanager
def temporary_scripts() -> Iterator[Scripts]:
    """Whatever they leave is ended in the end."""
    # A short path: sockets are below it.
    with tempfile.TemporaryDirectory(prefix="sk", ignore_cleanup_errors=True) as folder:
        scripts = Scripts(Path(folder), uuid.uuid4().hex)
        try:
            yield scripts
        finally:
            scripts.close()
            end_all(marked(scripts.mark))


def told(process: subprocess.Popen[str], word: str = "TOLD") -> dict[str, Any]:
    """What a script prints behind ``word``, once it does."""
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        if line.startswith(word):
            found: dict[str, Any] = json.loads(line.removeprefix(word))
            return found
        printed.append(line)
    raise AssertionError(f"the script ended with {process.wait(60)} and told nothing:\n{''.join(printed)}")
