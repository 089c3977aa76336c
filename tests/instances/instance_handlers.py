"""What the instances of these tests serve."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import flask

import servekit as serve

LONGEST_S = 60.0


def hello(request: flask.Request) -> str:
    return "hello world"


def echo(request: flask.Request) -> bytes:
    return request.get_data()


class Prints:
    """Prints numbered lines, each number once; the first replica's from a C library and a child as well."""

    def __init__(self) -> None:
        self.number = 0
        ctypes.CDLL(None).puts(b"from a C library")
        subprocess.run(["echo", "from a child"], check=True)

    def __call__(self, request: flask.Request) -> str:
        for _ in range(int(request.args.get("lines", 0))):
            print("number", self.number)
            self.number += 1
        if "crash" in request.args:
            ctypes.string_at(0)
        return "printed"


class Named:
    """Answers with its name, its process, and what it was sent."""

    def __init__(self, name: str = "", pause_s: float = 0.0) -> None:
        self.name = name
        self.pause_s = pause_s

    def __call__(self, request: flask.Request) -> dict[str, Any]:
        time.sleep(self.pause_s)
        sent = request.get_data() or request.query_string
        return {"name": self.name, "pid": os.getpid(), "sent": sent.decode()}


class ReadyLater(Named):
    """Is not ready before there is a file."""

    def __init__(self, name: str, gate: str) -> None:
        super().__init__(name)
        ends = time.monotonic() + LONGEST_S
        while not Path(gate).exists() and time.monotonic() < ends:
            time.sleep(0.05)


WORDS = serve.metrics.counter("words", "Words that were read", labels=["language"])


class Words:
    """Counts what it is asked for, in a metric of its own."""

    def __init__(self) -> None:
        self.lengths = serve.metrics.histogram("word_length", "Letters of a word", buckets=[2, 8])
        serve.metrics.gauge("reading_pid", "The process that reads").set(os.getpid())

    def __call__(self, request: flask.Request) -> str:
        for word in request.args["text"].split():
            WORDS.labels(language="en").inc()
            self.lengths.observe(len(word))
        return "read"


class Counter:
    """State of one replica."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, request: flask.Request) -> str:
        self.count += 1
        return str(self.count)

    def shout(self, request: flask.Request) -> str:
        return "SHOUT"

    def secret(self, request: flask.Request) -> str:
        return "secret"


class Gated:
    """Waits until a file is there; writes down which requests it began, in order."""

    def __init__(self, folder: str) -> None:
        self.gate = Path(folder, "gate")
        self.began = Path(folder, "began")

    def __call__(self, request: flask.Request) -> str:
        name = request.args.get("name", "")
        with self.began.open("a") as file:
            print(name, file=file)
        ends = time.monotonic() + LONGEST_S
        while request.args.get("wait") and not self.gate.exists():
            if time.monotonic() > ends:
                raise TimeoutError("nobody opened the gate")
            time.sleep(0.005)
        return name


class Hanging:
    """Says that it has begun, and never ends."""

    def __init__(self, told: str) -> None:
        self.told = told

    def __call__(self, request: flask.Request) -> str:
        Path(self.told).touch()
        time.sleep(600)
        return "late"


class BrokenAtStart:
    """Cannot be built where the file ``broken`` is; otherwise a `Named`."""

    def __init__(self, broken: str = "") -> None:
        if not broken or os.path.exists(broken):
            self.read_model()

    def read_model(self) -> None:
        raise RuntimeError(f"no such model, says process {os.getpid()}")

    def __call__(self, request: flask.Request) -> str:
        return "built"


class EndsAtStart:
    def __init__(self, how: str) -> None:
        if how == "sys.exit":
            sys.exit("enough")
        elif how == "hang":
            time.sleep(600)
        os._exit(3)

    def __call__(self, request: flask.Request) -> str:
        return "never"


def faulty(request: flask.Request) -> Any:
    """Fails in the way that the query names."""
    how = request.args.get("how", "")
    if how == "raise":
        raise LookupError("the handler's own trouble")
    if how == "exit":
        sys.exit(1)
    if how == "result":
        return object()
    if how == "die":
        os._exit(1)
    return {"pid": os.getpid()}


def build_number(request: flask.Request, *, number: int = 0) -> str:
    return str(number)


# -- for handles ---------------------------------------------------------------------------------------------------


def answer(request: flask.Request, one: Any = 6, other: Any = 7) -> Any:
    return one * other


def outer(request: flask.Request, name: str = "", *args: Any, tell: bool = False) -> Any:
    """What the endpoint ``name`` answers; or by what addresses this replica would ask it."""
    import servekit
    from servekit.handles import callers

    if tell:
        caller: Any = callers.in_worker
        return caller._ingresses
    return servekit.get_handle(name).remote(*args).result(LONGEST_S)


class CallsLater:
    """Once the gate is there, answers with what the endpoint ``answer`` does."""

    def __init__(self, gate: str) -> None:
        self.gate = Path(gate)

    def __call__(self, request: flask.Request) -> str:
        import servekit

        Path(self.gate.parent, f"began{time.monotonic_ns()}").touch()
        ends = time.monotonic() + LONGEST_S
        while not self.gate.exists() and time.monotonic() < ends:
            time.sleep(0.01)
        return str(servekit.get_handle("answer").remote().result(LONGEST_S))


class CallsOn:
    """Until the gate is there, calls the endpoint ``answer`` over and over, twice at a time; answers how often."""

    def __init__(self, gate: str) -> None:
        self.gate = Path(gate)

    async def __call__(self, request: flask.Request) -> int:
        (self.gate.parent / "began").touch()
        return sum(await asyncio.gather(self._call_on(), self._call_on()))

    async def _call_on(self) -> int:
        import servekit

        handle, calls, ends = servekit.get_handle("answer"), 0, time.monotonic() + LONGEST_S
        while not self.gate.exists() and time.monotonic() < ends:
            calls += await handle.remote(1, 1)
        return calls


class Configured:
    """Writes down every ``user_config`` that it is handed."""

    def __init__(self, log: str) -> None:
        self.log = log

    def reconfigure(self, user_config: object) -> None:
        with open(self.log, "a") as log:
            print(user_config, file=log)

    def __call__(self, request: flask.Request) -> str:
        return "configured"
