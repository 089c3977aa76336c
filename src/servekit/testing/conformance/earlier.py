"""A process that starts a worker as a controller does, and dies as by kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

from servekit.interfaces import RuntimeContext, WorkerSpec
from servekit.processes import begin_process, extend_sys_path, memory_file, module_command, own_sys_path
from servekit.replica.target import load
from servekit.targets import pack_target


class _Told(msgspec.Struct):
    tests: bytes
    """The test class and what its object holds, as `pack_target` pickles them."""
    context: RuntimeContext
    spec: WorkerSpec
    sys_path: list[str]
    state_path: str


def start_and_die(tests: Any, context: RuntimeContext, spec: WorkerSpec, timeout_s: float) -> bytes:
    """The state of a worker that a process of its own has started with ``tests.make_runtime()`` before it died.

    Raises `AssertionError` with what that process printed.
    """
    state = Path(context.directory, f"{spec.worker_id}.state")
    printed = Path(context.directory, f"{spec.worker_id}.earlier")
    packed = pack_target(type(tests), (vars(tests),), None).data
    told = _Told(packed, context, spec, own_sys_path(), str(state))
    memory = memory_file(msgspec.msgpack.encode(told))
    try:
        # To a file: the worker may keep a pipe open.
        with printed.open("wb") as output:
            subprocess.run(
                module_command(__name__),
                stdin=memory,
                stdout=output,
                stderr=output,
                start_new_session=True,
                timeout=timeout_s,
                check=False,
            )
    finally:
        os.close(memory)
    if not state.exists():
        raise AssertionError(
            "start() did not work in a process of its own, which was to be the earlier controller; it printed:\n\n"
            + printed.read_text(errors="replace")
        )
    return state.read_bytes()


def main() -> None:
    begin_process()
    told = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Told)
    extend_sys_path(told.sys_path)
    packed = load(told.tests)
    tests = packed.target()
    vars(tests).update(packed.init_args[0])
    runtime = tests.make_runtime()

    def start() -> None:
        runtime.open(told.context)
        state = runtime.start(told.spec).state
        partial = Path(told.state_path + ".partial")
        partial.write_bytes(state)
        partial.replace(told.state_path)

    # As in a controller: not on the main thread, and that thread does not stay.
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
