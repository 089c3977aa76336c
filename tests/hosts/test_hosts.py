"""The hosts themselves."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from host_tools import two_hosts

pytestmark = pytest.mark.processes

ECHO = """
import socket, sys
server = socket.create_server((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
server.accept()[0].sendall(socket.gethostname().encode())
"""
ASK = """
import socket, sys
print(socket.create_connection((sys.argv[1], int(sys.argv[2])), 60).recv(100).decode())
"""


def test_each_has_a_name_and_they_reach_each_other(hosts):
    first, second = hosts
    with second.start(sys.executable, "-c", ECHO, second.address, stdout=subprocess.PIPE) as echo:
        port = echo.stdout.readline().strip()
        assert first.call(sys.executable, "-c", ASK, second.address, port) == "host2\n"
    assert first.call("hostname") == "host1\n"
    assert socket.gethostname() not in ("host1", "host2")


def test_each_has_its_own_temporary_folder_and_what_is_elsewhere_can_be_hidden(hosts, shared):
    first, second = hosts
    (shared / "here").touch()
    first.call("touch", "/tmp/of host1")
    assert "of host1" not in second.call("ls", "/tmp")
    assert not Path("/tmp/of host1").exists()
    with second.hidden(shared):
        assert [host.call("ls", str(shared)) for host in hosts] == ["here\n", ""]
    assert second.call("ls", str(shared)) == "here\n"


def test_nothing_is_left_of_them():
    def mounts():
        return [line for line in Path("/proc/self/mounts").read_text().splitlines() if "host" in line]

    before = mounts()
    with two_hosts() as both:
        sleeper = both[0].start("sh", "-c", "echo up; exec setsid sleep 600", stdout=subprocess.PIPE)
        assert sleeper.stdout.readline() == "up\n"
    assert sleeper.wait(60) != 0
    assert sleeper.stdout.read() == ""  # nobody has the other end
    sleeper.stdout.close()
    assert not any(Path(f"/proc/{host.pid}").exists() for host in both)
    assert mounts() == before
