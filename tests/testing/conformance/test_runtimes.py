"""The kit for replica runtimes finds what is wrong with runtimes that are wrong, and says it in a sentence."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

import pytest

from servekit.interfaces import ReplicaRuntime, WorkerHandle
from servekit.testing.conformance import ReplicaRuntimeTests
from servekit_process import ProcessRuntime

pytestmark = pytest.mark.processes

HEAD = '''
import base64
import os
import signal
import subprocess
import sys
import time

import msgspec
import pytest

from servekit.interfaces import Exit, WorkerHandle
from servekit.processes import WorkerProcess, identify, is_alive, opened
from servekit.testing.conformance import ReplicaRuntimeTests
from servekit_process import ProcessRuntime


def start_with(spec, code, *arguments, **options):
    """A worker that runs ``code``, in the place of ``python -m servekit.worker``."""
    command = [sys.executable, "-c", "import os, sys, servekit.worker; " + code, *arguments]
    child = subprocess.Popen(command, start_new_session=True, **options)
    identity = identify(child.pid)
    state = {"worker_id": spec.worker_id, "pid": identity.pid, "start_ticks": identity.start_ticks}
    return WorkerProcess(spec.worker_id, msgspec.json.encode(state), identity, child)


def signal_to(handle, number):
    with opened(handle.identity) as process:
        if process is not None:
            process.send(number)
            return process.wait(20)


class Impatient(ReplicaRuntimeTests):
    start_timeout_s = 10.0
    notice_timeout_s = 4.0
'''


@dataclass(frozen=True)
class Broken:
    """A runtime with one fault, the case that finds it, and a part of what that says."""

    name: str
    methods: str
    case: str
    says: str
    claims: str = ""


BROKEN = [
    Broken(
        "NeverSeesAnEnd",
        "def poll(self, handle): return None",
        "test_a_worker_that_is_killed_is_seen_to_be_gone",
        "poll() still gives None 1 s after worker w0 was killed by SIGKILL. The contract: poll() gives an Exit once",
        "notice_timeout_s = 1.0",
    ),
    Broken(
        "SeesAnEndTooSoon",
        """
def open(self, context): self.directory = context.directory
def poll(self, handle): return Exit('gone') if os.path.exists(f'{self.directory}/{handle.worker_id}.sock') else None
""",
        "test_a_worker_becomes_ready",
        "poll() says that worker w0 has ended (gone), but it is ready. The contract: poll() gives None while",
    ),
    Broken(
        "LeavesChildren",
        """
def poll(self, handle):
    code = handle.child.poll()
    return None if code is None else Exit(f'killed by signal {-code}', code)
""",
        "test_what_a_killed_worker_had_started_ends_with_it",
        "a process that it had started in its group is still there. The contract: poll() ends what is left",
    ),
    Broken(
        "GivesNoReason",
        "def poll(self, handle): return super().poll(handle) and Exit('')",
        "test_a_worker_that_exits_is_seen_to_be_gone",
        "for a worker that has ended. The contract: poll() gives an Exit with a reason",
    ),
    Broken(
        "GivesAPoorReason",
        "def poll(self, handle): return super().poll(handle) and Exit('it is over')",
        "test_a_worker_that_is_killed_is_seen_to_be_gone",
        "after kill -9, poll() gives the reason 'it is over'. The contract: the reason says how",
    ),
    Broken(
        "GivesAWrongCode",
        "def poll(self, handle): return super().poll(handle) and Exit('exit code 0', 0)",
        "test_a_worker_that_exits_is_seen_to_be_gone",
        "for a worker that ended with exit code 3",
    ),
    Broken(
        "HangsInPoll",
        "def poll(self, handle): time.sleep(3)",
        "test_a_worker_that_exits_is_seen_to_be_gone",
        "poll() has not returned after 1 s. The contract: calls may block, but each returns",
        "notice_timeout_s = 1.0",
    ),
    Broken(
        "StopReturnsEarly",
        """
def stop(self, handle, grace_s):
    if self.poll(handle) is None:
        os.kill(handle.child.pid, signal.SIGTERM)
""",
        "test_stop_insists_when_a_worker_hangs",
        "stop() returned while the process of worker w0 (pid",
    ),
    Broken(
        "StopDoesNotAsk",
        "def stop(self, handle, grace_s): signal_to(handle, signal.SIGKILL); super().stop(handle, 0)",
        "test_stop_asks_first",
        "stop() with a grace of 30 s ended an idle worker before that could close its handler. The contract: stop()",
    ),
    Broken(
        "StopComplains",
        """
def stop(self, handle, grace_s):
    if self.poll(handle) is not None:
        raise RuntimeError('no such worker')
    super().stop(handle, grace_s)
""",
        "test_stop_of_a_worker_that_has_ended_is_no_error",
        "stop() of a worker that exited raised RuntimeError: no such worker. The contract:",
    ),
    Broken(
        "StartsNoWorker",
        "def start(self, spec): return start_with(spec, 'import time; time.sleep(60)')",
        "test_a_worker_becomes_ready",
        "start() returned, but worker w0 has not dialled within 2 s; poll() says that it is there. The contract:",
        "start_timeout_s = 2.0",
    ),
    Broken(
        "RunsOnAnotherThread",
        """
def start(self, spec):
    code = 'import threading; run = servekit.worker.main; t = threading.Thread(target=run); t.start(); t.join()'
    reading, writing = os.pipe()
    os.write(writing, spec.bootstrap)
    os.close(writing)
    with open(reading) as pipe:
        return start_with(spec, code, stdin=pipe)
""",
        "test_a_worker_becomes_ready",
        "has not dialled; poll() says that it ended: exit code 0. The contract: start() starts a process that calls "
        "servekit.worker.run(spec.bootstrap) on its main thread",
    ),
    Broken(
        "PutsTheBootstrapIntoArgv",
        """
def start(self, spec):
    code = 'servekit.worker.run(bytes.fromhex(sys.argv[1]))'
    return start_with(spec, code, spec.bootstrap.hex())
""",
        "test_the_bootstrap_is_in_neither_argv_nor_environment",
        "the bootstrap is in argv of process",
    ),
    Broken(
        "PutsTheBootstrapIntoTheEnvironment",
        """
def start(self, spec):
    code = 'import base64; servekit.worker.run(base64.b64decode(os.environ.pop("TOLD")))'
    return start_with(spec, code, env={**os.environ, 'TOLD': base64.b64encode(spec.bootstrap).decode()})
""",
        "test_the_bootstrap_is_in_neither_argv_nor_environment",
        "the bootstrap is in the environment of process",
    ),
    Broken(
        "DropsTheOutput",
        """
def start(self, spec):
    reading, writing = os.pipe()
    os.write(writing, spec.bootstrap)
    os.close(writing)
    with open(reading) as pipe:
        return start_with(spec, 'servekit.worker.main()', stdin=pipe, stderr=subprocess.DEVNULL)
""",
        "test_what_a_worker_prints_is_to_be_seen",
        "what a worker prints to stderr is nowhere to be seen",
    ),
    Broken(
        "TakesEveryOption",
        "def check_worker_options(self, options): pass",
        "test_worker_options",
        "check_worker_options() took 'no_runtime_has_such_an_option'. The contract: it raises ValueError",
    ),
    Broken(
        "AttachesToWhatIsGone",
        "def attach(self, state): return WorkerHandle(msgspec.json.decode(state)['worker_id'], state)",
        "test_attach_raises_for_a_worker_that_is_gone",
        "attach() gave a handle for a worker that has ended. The contract: it raises LookupError",
    ),
    Broken(
        "DoesNotAttach",
        "def attach(self, state): raise LookupError('never')",
        "test_a_later_controller_attaches_to_polls_and_stops_a_worker",
        "attach() raised LookupError (never) for a worker of a controller that was killed",
    ),
    Broken(
        "AttachesSecretly",
        "",
        "test_a_later_controller_attaches_to_polls_and_stops_a_worker",
        "attach() gave a handle for a worker though the test class says attaches = False",
        "attaches = False",
    ),
    Broken(
        "LeavesAChild",
        """
def start(self, spec):
    subprocess.Popen(['sleep', '600'], start_new_session=True)
    return super().start(spec)
""",
        "test_close_leaves_nothing_behind",
        "stop() and close() have left processes behind: pid",
    ),
    Broken(
        "LeavesAZombie",
        """
def poll(self, handle): return None if is_alive(handle.identity) else Exit('ended')
def stop(self, handle, grace_s): signal_to(handle, signal.SIGKILL)
""",
        "test_close_leaves_nothing_behind",
        "a zombie: it was not waited for",
    ),
    Broken(
        "NamesAnotherWorker",
        "def start(self, spec): return WorkerHandle('other', b'')",
        "test_a_worker_becomes_ready",
        "the handle of worker 'w0' has the worker_id 'other'",
    ),
]


def module() -> str:
    parts = [HEAD]
    for broken in BROKEN:
        body = broken.methods.strip().replace("\n", "\n    ") or "pass"
        parts.append(
            f"class {broken.name}(ProcessRuntime):\n    {body}\n\n"
            f"class Test{broken.name}(Impatient):\n"
            f"    {broken.claims}\n    def make_runtime(self): return {broken.name}()\n"
        )
    return "\n\n".join(parts)


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By runtime, what its case has said; one run of pytest for all, as each costs a second to begin."""
    folder = tmp_path_factory.mktemp("broken")
    tests = folder / "test_broken.py"
    tests.write_text(module())
    report = folder / "report.xml"
    cases = [f"{tests}::Test{broken.name}::{broken.case}" for broken in BROKEN]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *cases]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        failure = case.find("failure")
        if failure is not None:
            found[case.attrib["classname"].rpartition(".Test")[2]] = failure.attrib["message"]
    return found


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_a_broken_runtime_is_told_what_is_wrong(broken: Broken, failures: dict[str, str]) -> None:
    assert broken.says in failures.get(broken.name, "nothing failed")


class ForgetfulRuntime(ProcessRuntime):
    def attach(self, state: bytes) -> WorkerHandle:
        raise LookupError("this runtime attaches to nothing")


class TestARuntimeThatClaimsLittle(ReplicaRuntimeTests):
    """Nothing is asked of it but what it claims."""

    attaches = False
    local_processes = False

    def make_runtime(self) -> ReplicaRuntime:
        return ForgetfulRuntime()
