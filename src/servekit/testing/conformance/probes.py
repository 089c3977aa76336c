"""What the workers of `ReplicaRuntimeTests` serve: each shows one thing of the process that it is built in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from servekit.interfaces import Request, RequestAdapter, Response

LONGEST_S = 600.0
"""What hangs ends at last, should nobody have ended it."""
SEEN = "SEEN "


class TextAdapter(RequestAdapter):
    """A handler gets the request and returns text."""

    def decode(self, request: Request) -> Request:
        return request

    def encode(self, result: Any) -> Response:
        return Response(200, [("Content-Type", "text/plain")], str(result).encode())


class Idle:
    """Answers with its pid; at its end, it leaves the file ``left``."""

    def __init__(self, left: str = "") -> None:
        self.left = left

    def __call__(self, request: Request) -> str:
        return str(os.getpid())

    def close(self) -> None:
        if self.left:
            Path(self.left).touch()


class Parent(Idle):
    """Starts a process in its own process group, and leaves the pid in the file ``child``."""

    def __init__(self, child: str) -> None:
        super().__init__()
        self.child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({LONGEST_S})"])
        Path(child).write_text(str(self.child.pid))


class Speaking(Idle):
    """Prints one text to stdout, another to stderr."""

    def __init__(self, out: str, err: str) -> None:
        super().__init__()
        print(out, flush=True)
        print(err, file=sys.stderr, flush=True)


class Looking(Idle):
    """Says, by the error of its ``__init__``, what is to be seen of its process and of the ancestors of that."""

    def __init__(self) -> None:
        super().__init__()
        raise RuntimeError(SEEN + json.dumps(_visible(os.getpid())))


class Failing(Idle):
    """Raises in its ``__init__``."""

    def __init__(self) -> None:
        raise RuntimeError("this target cannot be built")


class Exiting(Idle):
    """Ends its process in its ``__init__``, past every handler of Python's."""

    def __init__(self, code: int) -> None:
        os._exit(code)


class Deaf(Idle):
    """Hangs in its ``__init__``, and does not listen to SIGTERM; the file ``began`` says that it has come to that."""

    def __init__(self, began: str) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.path.isdir(os.path.dirname(began)):  # On another machine it may not be there.
            Path(began).touch()
        time.sleep(LONGEST_S)


class Hanging(Idle):
    """Builds, and hangs in the first request; the file ``left`` says that it has begun."""

    def __call__(self, request: Request) -> str:
        Path(self.left).touch()
        time.sleep(LONGEST_S)
        return "late"


def _visible(pid: int) -> list[dict[str, Any]]:
    """Argv and environment, in hexadecimal, of a process and of its ancestors, as far as this user may read them."""
    found = []
    while pid > 0:
        shown: dict[str, Any] = {"pid": pid}
        for part in ("cmdline", "environ"):
            try:
                shown[part] = Path(f"/proc/{pid}/{part}").read_bytes().hex()
            except OSError:
                shown[part] = ""
        found.append(shown)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found
