"""The targets that the workers of `ReplicaRuntimeTests` serve. Each target shows one thing of its process."""

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
"""The time after which a process that hangs ends by itself, should no test have ended it."""
SEEN = "SEEN "


class TextAdapter(RequestAdapter):
    """Handlers receive the request itself, and return text."""

    def decode(self, request: Request) -> Request:
        return request

    def encode(self, result: Any) -> Response:
        return Response(200, [("Content-Type", "text/plain")], str(result).encode())


class Idle:
    """Answers with its pid. At its end it creates the file ``left``."""

    def __init__(self, left: str = "") -> None:
        self.left = left

    def __call__(self, request: Request) -> str:
        return str(os.getpid())

    def close(self) -> None:
        if self.left:
            Path(self.left).touch()


class Parent(Idle):
    """Starts another process in its own process group, and writes the pid of that process to the file ``child``."""

    def __init__(self, child: str) -> None:
        super().__init__()
        self.child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({LONGEST_S})"])
        Path(child).write_text(str(self.child.pid))


class Speaking(Idle):
    """Prints the text ``out`` to stdout and the text ``err`` to stderr."""

    def __init__(self, out: str, err: str) -> None:
        super().__init__()
        print(out, flush=True)
        print(err, file=sys.stderr, flush=True)


class Looking(Idle):
    """Raises an error in its ``__init__`` with the command lines and environments of its process and the ancestors."""

    def __init__(self) -> None:
        super().__init__()
        raise RuntimeError(SEEN + json.dumps(_visible(os.getpid())))


class Failing(Idle):
    """Raises in its ``__init__``."""

    def __init__(self) -> None:
        raise RuntimeError("this target cannot be built")


class Exiting(Idle):
    """Ends its process in its ``__init__`` at once, without Python's own end."""

    def __init__(self, code: int) -> None:
        os._exit(code)


class Deaf(Idle):
    """Ignores SIGTERM, creates the file ``began``, and hangs in its ``__init__``."""

    def __init__(self, began: str) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.path.isdir(os.path.dirname(began)):  # On another machine it may not be there.
            Path(began).touch()
        time.sleep(LONGEST_S)


class Hanging(Idle):
    """Hangs in the first request, at the beginning of which it creates the file ``left``."""

    def __call__(self, request: Request) -> str:
        Path(self.left).touch()
        time.sleep(LONGEST_S)
        return "late"


def _visible(pid: int) -> list[dict[str, Any]]:
    """Argv and environment, in hexadecimal, of a process and its ancestors, as far as this user may read them."""
    found = []
    while pid > 0:
        shown: dict[str, Any] = {"pid": pid}
        for part in ("cmdline", "environ"):
            try:
                shown[part] = Path(f"/proc/{pid}/{part}").read_bytes().hex()
            except OSError:
                shown[part] = ""
        if pid == os.getpid():  # By now its title has taken the place of its arguments.
            shown["cmdline"] = "\0".join(sys.orig_argv).encode(errors="surrogateescape").hex()
        found.append(shown)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found
