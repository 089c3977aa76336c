"""Handlers that fork, each in another way. Children end by themselves, should nobody end them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import flask

LONGEST_S = 120.0
FORKED = multiprocessing.get_context("fork")


def sleep() -> None:
    time.sleep(LONGEST_S)


def double(number: int) -> int:
    return 2 * number


def by_os_fork() -> int:
    child = os.fork()
    if child == 0:
        sleep()
        os._exit(0)
    return child


def by_process() -> int:
    process = FORKED.Process(target=sleep)
    process.start()
    assert process.pid is not None
    return process.pid


def by_preexec_fn() -> int:
    """The child of the fork never comes to its program."""
    read, write = os.pipe()

    def tell() -> None:
        os.write(write, str(os.getpid()).encode())
        sleep()

    threading.Thread(target=subprocess.run, args=(["true"],), kwargs={"preexec_fn": tell}, daemon=True).start()
    child = int(os.read(read, 100))
    os.close(read)
    os.close(write)
    return child


def by_c_code() -> int:
    """No hook of Python runs in this child; and it leaves the replica's process group, with which it would end."""
    libc = ctypes.PyDLL(None)
    child: int = libc.fork()
    if child == 0:
        libc.setsid()
        libc.sleep(int(LONGEST_S))
        libc._exit(0)
    return child


WAYS = {"os.fork": by_os_fork, "Process": by_process, "preexec_fn": by_preexec_fn, "C": by_c_code, "none": int}


def fork(request: flask.Request) -> dict[str, Any]:
    """Forks in the way that the query names; answers with both processes."""
    return {"pid": os.getpid(), "child": WAYS[request.args["way"]]()}


async def fork_async(request: flask.Request) -> dict[str, Any]:
    return fork(request)


def fork_and_hang(request: flask.Request) -> dict[str, Any]:
    """The first time, and where there is no file of that name yet, it forks by C code, says so there, and hangs."""
    told = request.args["told"]
    if not os.path.exists(told):
        child = by_c_code()
        with open(f"{told}.part", "w") as file:
            file.write(f"{os.getpid()} {child}")
        os.replace(f"{told}.part", told)
        sleep()
    return {"pid": os.getpid()}


def pool(request: flask.Request) -> dict[str, Any]:
    """Leaving the block terminates the processes of the pool."""
    with FORKED.Pool(2) as pool:
        doubles = pool.map(double, [1, 2, 3])
        children = [process.pid for process in pool._pool]
    pool.join()
    return {"pid": os.getpid(), "doubles": doubles, "children": children}


def terminated_at_once(request: flask.Request) -> dict[str, Any]:
    """Terminates children before Python in them has come to anything."""
    codes = []
    for _ in range(20):
        process = FORKED.Process(target=sleep)
        process.start()
        process.terminate()
        process.join(LONGEST_S / 2)
        codes.append(process.exitcode)
    return {"pid": os.getpid(), "codes": codes}


class ComesBack:
    """Forks, and lets the child leave as a handler does; later it says how that ended."""

    def __init__(self) -> None:
        self.child = 0

    def reconfigure(self, user_config: str) -> None:
        self.child = os.fork()

    def __call__(self, request: flask.Request) -> Any:
        how = request.args.get("how")
        if how == "yield":
            return self._pieces()
        if how is None:
            _, status = os.waitpid(self.child, 0)
            return {"code": os.waitstatus_to_exitcode(status)}
        self.child = os.fork()
        if self.child == 0 and how == "sys.exit":
            sys.exit(0)
        return {"pid": os.getpid(), "child": self.child}

    def _pieces(self) -> Iterator[str]:
        yield "before "
        self.child = os.fork()
        yield str(os.getpid())
