"""The agent: the process that calls Ray for a controller, and nothing else.

Ray aborts a process that has lost the GCS for a minute, and calls of Ray may block for longer. Neither must cost the
instance anything: the controller imports no Ray, ends an agent that does not answer, and starts another.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection as Pipe
from typing import Any

import msgspec

from servekit.processes import ProcessIdentity, begin_process, identify, set_title
from servekit_ray import actor, asks
from servekit_ray.asks import NAMESPACE, Answer, Attached, Place, Question, Told

THREADS = 40
"""Questions at a time: more than the threads from which a controller calls a runtime."""
END_ALL_TIMEOUT_S = 5.0
GONE = "The actor is dead because its process is gone, and Ray does not know how it ended"


class Agent:
    """Answers questions, each in a thread."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._pipe = Pipe(told.pipe_fd)
        self._sending = threading.Lock()
        self._actors: dict[str, Any] = {}
        self._calls: dict[str, Any] = {}
        """By the actor's name a call that is answered by its place, or fails once its process has ended."""

    def run(self) -> None:
        """Return when the controller has closed its end, or has ended."""
        decode = msgspec.msgpack.Decoder(Question).decode
        with ThreadPoolExecutor(THREADS) as threads:
            while True:
                try:
                    question = decode(self._pipe.recv_bytes())
                except (EOFError, OSError):
                    break
                threads.submit(self._answer, question)
            if self._told.owned:
                ending = threading.Thread(target=self.end_all, daemon=True)
                ending.start()
                ending.join(END_ALL_TIMEOUT_S)
            os._exit(0)  # Whatever Ray's threads do.

    def _answer(self, question: Question) -> None:
        methods: dict[type[asks.Ask], Callable[..., Any]] = {
            asks.Attach: self.attach,
            asks.Check: self.check,
            asks.Nodes: self.nodes,
            asks.Resources: self.resources,
            asks.Create: self.create,
            asks.AwaitPlace: self.await_place,
            asks.Look: self.look,
            asks.Kill: self.kill,
            asks.EndAll: self.end_all,
        }
        arguments = msgspec.structs.asdict(question.ask)
        try:
            answer = Answer(question.number, methods[type(question.ask)](**arguments))
        except BaseException as error:  # Of Ray's, which has many; the controller has the words.
            answer = Answer(question.number, error=_why(error))
        try:
            with self._sending:
                self._pipe.send_bytes(msgspec.msgpack.encode(answer))
        except OSError:
            pass  # The other end is closed: `run` sees it, too.

    def attach(self, address: str) -> Attached:
        import ray

        # Ray says "SIGTERM handler is not set" at WARNING, and how it connects at INFO.
        found = ray.init(address=address, namespace=NAMESPACE, log_to_driver=True, logging_level=logging.ERROR)
        info = found.address_info
        self._host_class = ray.remote(actor.WorkerHost)
        session = os.path.basename(info["session_dir"])
        return Attached(session, str(info["node_ip_address"]), _listener(info["raylet_socket_name"]))

    def check(self, options: dict[str, Any]) -> str:
        import ray

        try:
            ray.runtime_env.RuntimeEnv(**(options.get("runtime_env") or {}))
            self._host_class.options(**options)
        except (TypeError, ValueError) as error:
            return str(error)
        return ""

    def nodes(self) -> list[Mapping[str, float]]:
        import ray

        return [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def resources(self) -> tuple[Mapping[str, float], Mapping[str, float]]:
        import ray

        return ray.cluster_resources(), ray.available_resources()

    def create(self, name: str, label: str, options: dict[str, Any], worker_module: str, bootstrap: bytes) -> None:
        # Detached: no actor is to end with an agent. One that is left of an owned instance, `end_all` ends.
        hosted = self._host_class.options(
            **options, name=name, namespace=NAMESPACE, lifetime="detached", max_restarts=0, max_task_retries=0
        ).remote(label)
        self._calls[name] = hosted.begin.remote(worker_module, bootstrap)
        self._actors[name] = hosted

    def await_place(self, name: str, timeout_s: float) -> Place | None:
        import ray

        call = self._calls.get(name)
        if call is None:
            raise LookupError("the connection to Ray was lost meanwhile")
        ready, _ = ray.wait([call], timeout=timeout_s)
        if not ready:
            return None
        place = msgspec.convert(ray.get(ready[0]), Place)
        self._calls[name] = self._actors[name].where.remote()
        return place

    def look(self, name: str) -> str:
        import ray
        from ray.exceptions import ActorUnavailableError, RayError

        try:
            hosted = self._actor(name)
        except ValueError:
            return GONE
        call = self._calls.get(name) or hosted.where.remote()
        try:
            ready, _ = ray.wait([call], timeout=0)
            if ready:
                ray.get(call)
                # It answered: the actor's call of `run` is still on its way. Ask anew.
                call = hosted.where.remote()
        except ActorUnavailableError:
            call = hosted.where.remote()  # The network, perhaps: the process may live.
        except RayError as error:
            self._forget(name)
            return str(error)
        self._calls[name] = call
        return ""

    def kill(self, name: str, is_asked_for: bool = False) -> None:
        import ray

        try:
            ray.kill(self._actor(name), no_restart=True)
        except ValueError:
            return  # It has ended.
        if not is_asked_for:
            self._forget(name)

    def end_all(self) -> None:
        import ray

        if not ray.is_initialized():  # Its Ray is lost, or was never found: there is nothing to end.
            return
        for found in ray.util.list_named_actors(all_namespaces=True):
            if found["namespace"] == NAMESPACE and found["name"].startswith(self._told.prefix):
                self.kill(found["name"])

    def _forget(self, name: str) -> None:
        self._actors.pop(name, None)
        self._calls.pop(name, None)

    def _actor(self, name: str) -> Any:
        """Raises ``ValueError`` where Ray knows no such actor, or no more."""
        import ray

        if name not in self._actors:
            self._actors[name] = ray.get_actor(name, namespace=NAMESPACE)
        return self._actors[name]


def _listener(path: str) -> ProcessIdentity | None:
    """The process that listens on a Unix socket (SO_PEERCRED, unix(7))."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return identify(pid) if pid else None


def _why(error: BaseException) -> str:
    """The message of ``error``, and the last line of its cause, in which Ray explains a wrong token."""
    reasons = [str(error) or type(error).__name__]
    if error.__cause__ is not None:
        reasons += str(error.__cause__).strip().splitlines()[-1:]
    return ": ".join(reasons)


def main() -> None:
    """Be an agent. The argument is a `Told`, as JSON."""
    begin_process()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # What workers print is to be seen at once.
    told = msgspec.json.decode(sys.argv[1], type=Told)
    set_title(f"Ray agent of {told.prefix.split(':')[1]}")
    # While a local Ray starts; the first question waits for it.
    threading.Thread(target=importlib.import_module, args=("ray",), daemon=True).start()
    Agent(told).run()


if __name__ == "__main__":
    main()
