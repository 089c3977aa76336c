"""What is served while faults are injected: it answers with the id that it was sent, and with its process.

What a request has as ``do``, in its query or in its JSON, is done by the replica that gets it:

* ``die`` kills its process, before an answer; ``exit`` ends it by ``os._exit``;
* ``sleep`` takes ``for_s`` seconds; in an `AsyncEcho` ``block`` does the same and holds the event loop;
* ``hang`` never ends, and gives way to other threads (``time.sleep``); ``gil`` computes in C code that does not;
* ``grow`` takes ``mb`` megabytes, and keeps them;
* ``spoil`` has this replica fail from then on: every call raises; ``sicken``, that the ``check_health`` of a `Checked`
  hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import time
from typing import Any

import flask

FOREVER_S = 3600.0


def asked(request: flask.Request) -> dict[str, Any]:
    """The options of a request: of its query, and of its JSON body where it has one."""
    body = request.get_json(silent=True) if request.method == "POST" else None
    return {**request.args.to_dict(), **(body or {})}


class Echo:
    """``pause_s``: how long each call takes. ``mark``: in each answer, to tell versions apart."""

    def __init__(self, pause_s: float = 0.0, mark: str = "") -> None:
        self.pause_s = pause_s
        self.mark = mark
        self.kept: list[bytearray] = []
        self.spoilt = False
        self.sick = False

    def reconfigure(self, user_config: Any) -> None:
        self.mark = str(user_config)

    def __call__(self, request: flask.Request) -> dict[str, Any]:
        options = asked(request)
        if "do" in options:
            self.do(options)
        if self.spoilt:
            raise RuntimeError("this replica was spoilt")
        time.sleep(self.pause_s)
        return self.answer(options)

    def answer(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"id": options.get("id", ""), "pid": os.getpid(), "mark": self.mark}

    def do(self, options: dict[str, Any]) -> None:
        what = options["do"]
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "exit":
            os._exit(1)
        elif what in ("sleep", "block"):
            time.sleep(float(options["for_s"]))
        elif what == "hang":
            time.sleep(FOREVER_S)
        elif what == "gil":
            re.fullmatch(r"(a+)+", "a" * 64 + "b")  # 2**64 ways to fail
        elif what == "grow":
            self.kept.append(bytearray(os.urandom(1)) * (int(options["mb"]) * 1_000_000))
        elif what == "spoil":
            self.spoilt = True
        elif what == "sicken":
            self.sick = True
        else:
            raise ValueError(f"nothing is called {what!r} here")


class Checked(Echo):
    def check_health(self) -> None:
        if self.sick:
            time.sleep(FOREVER_S)


class EchoOfHost(Echo):
    """Processes of another host than ``host1`` are told by a number that is so much larger."""

    OF_ANOTHER = 1 << 32

    def answer(self, options: dict[str, Any]) -> dict[str, Any]:
        answer = super().answer(options)
        answer["pid"] += 0 if socket.gethostname() == "host1" else self.OF_ANOTHER
        return answer


class AsyncEcho(Echo):
    """The same as an ``async def``: ``sleep`` and ``hang`` await, ``stubborn`` when it is cancelled too; all else holds
    the event loop."""

    async def __call__(self, request: flask.Request) -> dict[str, Any]:  # type: ignore[override]
        options = asked(request)
        what = options.get("do")
        if what in ("sleep", "hang"):
            await asyncio.sleep(FOREVER_S if what == "hang" else float(options["for_s"]))
        elif what == "stubborn":
            ends = time.monotonic() + FOREVER_S
            while time.monotonic() < ends:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(FOREVER_S)
        elif what:
            self.do(options)
        if self.spoilt:
            raise RuntimeError("this replica was spoilt")
        await asyncio.sleep(self.pause_s)
        return self.answer(options)
