"""The kernel's count of kills for want of memory, in folders and files made like its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from servekit import oom_kills
from servekit.interfaces import Exit
from servekit.oom_kills import OomKills, counter_of, kills

KILLED = Exit("killed by SIGKILL", -9)
V1 = "4:memory:/docker/a\n3:cpu,cpuacct:/docker/b\n0::/\n"
V2 = "0::/system.slice/servekit.service\n"


class Machine:
    """A process 7, with the cgroups that it is in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proc = folder / "proc"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "7").mkdir()

    def mount(self, kind: str, options: str, root: str = "/") -> Path:
        point = self.folder / kind
        line = f"35 31 0:32 {root} {point} rw,relatime shared:9 - {kind} {kind} {options}\n"
        with (self.proc / "self/mountinfo").open("a") as file:
            file.write(f"22 1 0:5 / /dev rw - devtmpfs udev rw\n{line}")
        return point

    def put(self, groups: str) -> None:
        (self.proc / "7/cgroup").write_text(groups)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("kind", "options", "groups", "root", "file"),
    [
        ("cgroup2", "rw", V2, "/", "system.slice/servekit.service/memory.events"),
        ("cgroup", "rw,memory", V1, "/", "docker/a/memory.oom_control"),
        ("cgroup", "rw,memory", V1, "/docker", "a/memory.oom_control"),
        ("cgroup", "rw,memory", V1, "/docker/a", "memory.oom_control"),
    ],
)
def test_the_count_of_a_process_is_that_of_its_memory_cgroup(
    machine: Machine, kind: str, options: str, groups: str, root: str, file: str
) -> None:
    machine.put(groups)
    counter = machine.mount(kind, options, root) / file
    counter.parent.mkdir(parents=True)
    counter.write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert counter_of(7, machine.proc) == counter
    assert kills(counter) == 2


def test_without_a_memory_cgroup_it_is_that_of_the_machine(machine: Machine) -> None:
    assert counter_of(7, machine.proc) == Path("/proc/vmstat")
    machine.put(V1)
    machine.mount("cgroup", "rw,cpu,cpuacct")
    machine.mount("cgroup2", "rw")  # Its root has no count.
    assert counter_of(7, machine.proc) == Path("/proc/vmstat")
    assert counter_of(8, machine.proc) == Path("/proc/vmstat")
    assert kills(machine.folder / "none") is None


class Watched:
    """`OomKills` of a counter in a file, looked at every second of a time that the test moves."""

    def __init__(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.file = 100.0, file
        monkeypatch.setattr(oom_kills.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(oom_kills, "counter_of", lambda pid: self.file)
        self.kills = OomKills()

    def look(self, count: int, after_s: float = 1.0) -> None:
        self.now += after_s
        self.file.write_text(f"oom_kill {count}\n")
        self.kills.look(os.getpid())


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(tmp_path / "memory.events", monkeypatch)


def test_a_kill_while_the_count_rises_is_named(watched: Watched) -> None:
    watched.look(2)
    watched.look(2)
    assert watched.kills.named(KILLED) is KILLED
    watched.file.write_text("oom_kill 3\n")
    named = watched.kills.named(KILLED)
    assert named.code == -9
    assert named.reason.startswith("killed by the kernel's OOM killer: its memory cgroup (")
    assert named.reason.endswith(" had no memory left; killed by SIGKILL")
    assert watched.kills.named(Exit("its process is gone")).reason.endswith("its process is gone")


def test_a_look_while_the_process_dies_does_not_hide_it(watched: Watched) -> None:
    watched.look(0)
    watched.look(1)
    watched.look(1, after_s=0.01)
    assert "OOM" in watched.kills.named(KILLED).reason


def test_what_was_before_does_not_count(watched: Watched) -> None:
    for _ in range(3):
        watched.look(5)
    assert watched.kills.named(KILLED) is KILLED


@pytest.mark.parametrize("ended", [Exit("exit code 1", 1), Exit("killed by SIGTERM", -15)])
def test_other_ends_are_not_renamed(watched: Watched, ended: Exit) -> None:
    watched.look(0)
    watched.file.write_text("oom_kill 1\n")
    assert watched.kills.named(ended) is ended


def test_a_group_that_is_gone_says_nothing(watched: Watched) -> None:
    assert watched.kills.named(KILLED) is KILLED
    watched.look(0)
    watched.file.unlink()
    assert watched.kills.named(KILLED) is KILLED


def test_in_another_group_the_count_begins_anew(watched: Watched, tmp_path: Path) -> None:
    watched.look(0)
    watched.file = tmp_path / "other"
    watched.look(7)
    assert watched.kills.named(KILLED) is KILLED
