"""A background load whose every answer is checked, for tests and for `python -m benchmarks.faults`.

with Load(instance.url, "/echo") as load:   # 16 clients that GET and 4 that POST, in a process of their own
    os.kill(pid, signal.SIGKILL)
    load.more()                             # once 60 more requests were answered
print(load.counts)
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults import outcomes
from benchmarks.faults.outcomes import Counts, Outcome

CLIENTS = Path(__file__).with_name("clients.py")
STEP_S = 0.005


def ask(
    url: str, do: str = "", *, path: str = "/echo", method: str = "GET", timeout_s: float = 75.0, **more: object
) -> str:
    """Send one request, on a connection of its own, which is to ``do`` something (`handlers`); the status of its answer
    and its body, ``200 {...}``, or the exception."""
    server = urllib.parse.urlsplit(url).netloc
    connection = http.client.HTTPConnection(server, timeout=timeout_s)
    options = {"id": "asked", **({"do": do} if do else {}), **more}
    try:
        if method == "GET":
            connection.request(method, f"{path}?{urllib.parse.urlencode(options)}")
        else:
            connection.request(method, path, json.dumps(options), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return f"{answer.status} {answer.read().decode(errors='replace')}"
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()


class LoadEndedError(Exception):
    """The clients are no more; the message says how they ended."""


class Load:
    """Clients that send requests to one path, one after another each, from entering the block to its end.

    Args:
        path: of an endpoint that answers as `handlers.Echo` does. It may have a query.
        gets, posts: how many connections send GETs, and how many POSTs.
        pause_s: each client's, between two requests.
        timeout_s: after which a client gives an answer up, of kind ``TimeoutError``.
        grace_s: how long requests that are under way at the end of the block have; then they are `UNANSWERED`.
        most: requests in all.
    """

    def __init__(
        self,
        url: str,
        path: str = "/echo",
        *,
        gets: int = 16,
        posts: int = 4,
        pause_s: float = 0.005,
        timeout_s: float = 75.0,
        grace_s: float = 10.0,
        most: int = 1_000_000,
    ) -> None:
        self._options: dict[str, Any] = {
            "url": url,
            "path": path,
            "gets": gets,
            "posts": posts,
            "pause_s": pause_s,
            "timeout_s": timeout_s,
            "grace_s": grace_s,
            "most": most,
        }
        self.outcomes: list[Outcome] = []
        """What became of each request that has ended, in the order in which they ended."""
        self.began_s = self.ended_s = 0.0
        """When the block was entered, and when it was left."""

    def __enter__(self) -> Load:
        """Returns once a request was answered. Raises `LoadEndedError` where the clients cannot run."""
        self.began_s = time.monotonic()
        self._clients = subprocess.Popen(
            [sys.executable, "-I", str(CLIENTS), json.dumps(self._options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, name="outcomes of the load")
        self._reader.start()
        try:
            self.more(1)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._clients.stdin is not None
        self.ended_s = time.monotonic()
        self._clients.stdin.close()
        self._reader.join()
        self._clients.wait()

    @property
    def counts(self) -> Counts:
        return outcomes.counts(self.outcomes)

    @property
    def failures(self) -> list[Outcome]:
        return outcomes.failures(self.outcomes)

    def more(self, count: int = 60, timeout_s: float = 60.0) -> list[Outcome]:
        """The next outcomes, once that many more requests were answered as they should be. Failures are no end.

        Raises ``TimeoutError``, and `LoadEndedError`.
        """
        before = len(self.outcomes)
        self.wait(lambda: sum(not one.kind for one in self.outcomes[before:]) >= count, timeout_s)
        return self.outcomes[before:]

    def caught_up(self, moment_s: float) -> bool:
        """Whether every client is done with what it sent before that moment."""
        later = {one.id.partition("-")[0] for one in reversed(self.outcomes) if one.sent_s >= moment_s}
        clients: int = self._options["gets"] + self._options["posts"]
        return len(later) == clients

    def wait(self, found: Callable[[], object], timeout_s: float = 60.0) -> None:
        """Until ``found`` returns something true. Raises ``TimeoutError``, and `LoadEndedError`."""
        ends = time.monotonic() + timeout_s
        while not found():
            if not self._reader.is_alive():
                raise LoadEndedError(f"the clients ended with {self._clients.poll()}; {self.counts}")
            if time.monotonic() > ends:
                raise TimeoutError(f"it did not come about within {timeout_s:g} s of load; {self.counts}")
            time.sleep(STEP_S)

    def _read(self) -> None:
        assert self._clients.stdout is not None
        with self._clients.stdout as lines:
            for line in lines:
                self.outcomes.append(outcomes.from_line(line))
