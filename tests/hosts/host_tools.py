"""Hosts that are none: namespaces of this machine, each with a network, a host name, processes and ``/tmp`` of its own.

What else is on the disk they share with this machine, as hosts do that mount one file system; `Host.hidden` takes a
folder out of that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NETWORK = "10.77.0"
START_TIMEOUT_S = 120.0
GCS_PORT = 6379

INIT = """
hostname "$1"
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -m 1777 /tmp/shm
mount --bind /tmp/shm /dev/shm
ip link set lo up
trap "" CHLD  # orphans are not to stay as zombies
echo up
exec cat
"""
"""The first process of a host. It ends with whoever holds its standard input, and all others of the host with it."""


def missing() -> str:
    """Why there can be no hosts here; empty where there can."""
    tools = [tool for tool in ("unshare", "nsenter", "ip", "mount") if shutil.which(tool) is None]
    if tools:
        return f"no {', '.join(tools)}"
    probe = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "ip", "link", "add", "type", "veth"],
        capture_output=True,
        text=True,
    )
    return f"no namespaces: {probe.stderr.strip()}" if probe.returncode else ""


class Host:
    """One of them, from `__init__` until `close`, or until this process ends."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = ""
        own = ["--net", "--mount", "--uts", "--pid", "--mount-proc", "--fork", "--kill-child", "--propagation=private"]
        self._holder = subprocess.Popen(
            ["unshare", *own, "sh", "-ec", INIT, "init", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "up\n", f"host {name} did not come up"
        (self.pid,) = map(int, Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split())
        """The first process's, as this machine has it."""

    def inside(self, *command: str) -> list[str]:
        """What to run here for ``command`` to be run there."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--uts", "--pid", "--", *command]

    def call(self, *command: str) -> str:
        """Run it there, to its end; its output. Raises ``CalledProcessError``."""
        return subprocess.run(
            self.inside(*command), check=True, stdout=subprocess.PIPE, text=True, timeout=START_TIMEOUT_S
        ).stdout

    def start(self, *command: str, **more: Any) -> subprocess.Popen[str]:
        """Begin to run it there. A signal that is sent to it reaches ``nsenter`` alone; `close` ends all."""
        environ = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "TMPDIR")}
        return subprocess.Popen(self.inside(*command), text=True, **{"env": environ, **more})

    @contextlib.contextmanager
    def hidden(self, folder: Path) -> Iterator[None]:
        """Meanwhile the folder is empty there."""
        self.call("mount", "-t", "tmpfs", "tmpfs", str(folder))
        try:
            yield
        finally:
            self.call("umount", "--lazy", str(folder))

    def close(self) -> None:
        """Every process of it is killed, and with the last one its network and its mounts are gone."""
        os.kill(self.pid, signal.SIGKILL)
        self._holder.wait()
        for pipe in (self._holder.stdin, self._holder.stdout):
            assert pipe is not None
            pipe.close()


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """``host1`` and ``host2``, with a cable between them: 10.77.0.1 and 10.77.0.2."""
    with contextlib.ExitStack() as undo:
        hosts = []
        for name in ("host1", "host2"):
            hosts.append(Host(name))
            undo.callback(hosts[-1].close)
        first, second = hosts
        # Both ends are made in a namespace, so that nothing of them is ever to be seen on this machine. But not among
        # the processes of one, where the other's has no number.
        cable = ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(second.pid)]
        subprocess.run(["nsenter", f"--target={first.pid}", "--net", *cable], check=True, timeout=START_TIMEOUT_S)
        for number, host in enumerate(hosts, 1):
            host.address = f"{NETWORK}.{number}"
            host.call("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
            host.call("ip", "link", "set", "eth0", "up")
            host.call("ip", "route", "add", "default", "dev", "eth0")
        yield first, second


@contextlib.contextmanager
def ray_on(first: Host, second: Host, folder: Path) -> Iterator[str]:
    """One Ray cluster over both, its head on ``first``; ``second`` has the resource ``host2``. Its address.

    ``folder``: where what Ray prints goes. The cluster ends with its hosts.
    """
    address = f"{first.address}:{GCS_PORT}"
    with contextlib.ExitStack() as undo:
        head = ["--head", f"--port={GCS_PORT}", "--include-dashboard=false", "--disable-usage-stats"]
        _start_ray(undo, first, folder, *head)
        _start_ray(undo, second, folder, f"--address={address}", '--resources={"host2": 1}')
        yield address


def _start_ray(undo: contextlib.ExitStack, host: Host, folder: Path, *arguments: str) -> None:
    common = ["--block", f"--node-ip-address={host.address}", "--num-cpus=2", "--num-gpus=0"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *common, *arguments]
    printed = folder / f"ray-{host.name}.log"
    environ = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "TMPDIR")}
    environ["RAY_AUTH_MODE"] = "token"  # or the second node does not look for one
    environ["RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S"] = "60"  # 30 are too few on a busy machine
    with printed.open("wb") as output:
        node = host.start(
            *command,
            "--object-store-memory=100000000",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environ,
        )
    undo.callback(node.wait)
    undo.callback(node.kill)
    ends = time.monotonic() + START_TIMEOUT_S
    while "Ray runtime started" not in printed.read_text():
        assert node.poll() is None, f"Ray on {host.name} ended with {node.returncode}:\n{printed.read_text()}"
        assert time.monotonic() < ends, f"Ray on {host.name} is not up:\n{printed.read_text()}"
        time.sleep(0.05)
