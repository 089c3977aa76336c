"""The controller's end of an agent, the process that calls Ray."""

from __future__ import annotations

import contextlib
import multiprocessing
import subprocess
import threading
from collections.abc import Mapping
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

import msgspec

from servekit.errors import InstanceStartError
from servekit.processes import module_command
from servekit_ray.asks import Answer, Ask, EndAll, Question, Told

T = TypeVar("T")

CLOSE_TIMEOUT_S = 10.0
LOST = "the connection to Ray was lost"


class AgentLostError(InstanceStartError):
    """The agent has ended, or was ended since it did not answer in time."""


class RefusedError(Exception):
    """Ray has raised something; the message is Ray's."""


class AgentLink:
    """An agent, started as a child of this process. Its methods may be called from several threads at once.

    Args:
        environ: the agent's environment.
        prefix: of the names of the instance's actors.
        owned: these actors are ended when this process ends, however it ends.
    """

    def __init__(self, environ: Mapping[str, str], prefix: str, *, owned: bool) -> None:
        ours, theirs = multiprocessing.Pipe()
        with theirs:
            told = msgspec.json.encode(Told(theirs.fileno(), prefix, owned)).decode()
            self._child = subprocess.Popen(
                module_command("servekit_ray.agent", told),
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environ,
                start_new_session=True,  # A Ctrl-C is not for it.
            )
        self._pipe = ours
        self._lock = threading.Lock()
        """Held to send, and to use the table."""
        self._open: dict[int, Future[Any]] = {}
        """By their numbers the questions that wait for an answer; each for as long as `ask` does."""
        self._numbers = 0
        self._has_ended = False
        threading.Thread(target=self._receive, name="servekit-ray-agent", daemon=True).start()

    @property
    def has_ended(self) -> bool:
        return self._has_ended

    def ask(self, ask: Ask, answer: type[T], timeout_s: float) -> T:
        """The agent's answer. An agent that does not answer within ``timeout_s`` is ended.

        Raises:
            AgentLostError: the agent has ended, or was ended.
            RefusedError: Ray raised something.
        """
        future: Future[Any] = Future()
        with self._lock:
            if self._has_ended:
                raise AgentLostError(LOST)
            self._numbers += 1
            number = self._numbers
            try:
                self._pipe.send_bytes(msgspec.msgpack.encode(Question(number, ask)))
            except OSError:
                raise AgentLostError(LOST) from None
            self._open[number] = future
        try:
            return msgspec.convert(future.result(timeout_s), answer)
        except FutureTimeoutError:
            self.kill()
            raise AgentLostError(f"Ray gave no answer within {timeout_s:g} s") from None
        finally:
            with self._lock:
                self._open.pop(number, None)

    def close(self) -> None:
        """Have the instance's actors ended that are left, then the agent; return when that has ended."""
        with contextlib.suppress(AgentLostError, RefusedError):
            self.ask(EndAll(), type(None), CLOSE_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """End the agent. What it was asked raises `AgentLostError`."""
        self._child.kill()
        self._child.wait()

    def _receive(self) -> None:
        decode = msgspec.msgpack.Decoder(Answer).decode
        try:
            while True:
                answer = decode(self._pipe.recv_bytes())
                with self._lock:
                    future = self._open.get(answer.number)
                if future is not None and answer.error:
                    future.set_exception(RefusedError(answer.error))
                elif future is not None:
                    future.set_result(answer.value)
        except (EOFError, OSError):
            pass
        with self._lock:
            self._has_ended = True
            left = [*self._open.values()]
        self._pipe.close()
        for future in left:
            with contextlib.suppress(InvalidStateError):
                future.set_exception(AgentLostError(LOST))
