"""What children of forks are kept from; each in a process of its own, for hooks at forks stay as long as it does."""

from __future__ import annotations

import subprocess
import sys

import pytest

FORK = """
import asyncio, os, signal, socket, sys
from servekit.forks import Forks, forks

def of_child(look):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if look() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def is_null(descriptor):
    return os.path.samestat(os.fstat(descriptor), os.stat(os.devnull))
"""

CASES = {
    "a socket that is held": """
a, b = socket.socketpair()
forks.guard(worker=True)
forks.hold(a)
assert of_child(lambda: is_null(a.fileno()) and not is_null(b.fileno()))
a.send(b"x")
assert b.recv(1) == b"x"
""",
    "one that was let go of": """
a, b = socket.socketpair()
forks.guard(worker=True)
forks.let_go(forks.hold(a))
assert of_child(lambda: not is_null(a.fileno()))
""",
    "a file that has the number of one that was closed": """
a, b = socket.socketpair()
forks.guard(worker=True)
number, = forks.hold(a)
a.close()
os.dup2(b.fileno(), number)
assert of_child(lambda: not is_null(number))
""",
    "a source": """
a, b = socket.socketpair()
forks.guard(worker=True)
class Source:
    def sockets(self):
        return [a]
source = Source()
forks.hold_those_of(source)
assert of_child(lambda: is_null(a.fileno()) and not is_null(b.fileno()))
del source
assert of_child(lambda: not is_null(a.fileno()))
""",
    "signal handlers, of servekit's and of others": """
others = lambda *_: None
forks.guard(worker=True)
forks.handle_signal(signal.SIGTERM, lambda *_: None)
signal.signal(signal.SIGUSR1, others)
mine = signal.getsignal(signal.SIGTERM)
expected = signal.SIG_DFL, others
assert of_child(lambda: (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)) == expected)
assert signal.getsignal(signal.SIGTERM) is mine
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
""",
    "a user's process, whose children, loop and signals are the user's": """
forks.guard(worker=False)
a, b = socket.socketpair()
forks.hold(a)
async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)
    return os.fork(), signal.getsignal(signal.SIGUSR1)
pid, handler = asyncio.run(main())
if pid == 0:
    os._exit(0 if is_null(a.fileno()) and handler is not signal.SIG_DFL else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
""",
    "a host's handler, which was there first": """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
forks.guard(worker=True)
for number in (signal.SIGTERM, signal.SIGUSR1):
    forks.handle_signal(number, lambda *_: None)
assert of_child(
    lambda: (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)) == (signal.SIG_DFL, signal.SIG_IGN)
)
""",
    "replicas whose loops are closed, in process": """
class Replica:
    told = False
    def in_child(self):
        self.told = True
        loop.call_soon(print)
forks.guard(worker=False)
loop = asyncio.new_event_loop()
loop.close()
replicas = [Replica(), Replica()]
for each in replicas:
    forks.tell_child(each)
assert of_child(lambda: all(each.told for each in replicas))
""",
    "a listener that the child closes": """
import tempfile, uvloop
from servekit.wire.network import listen

async def main(path):
    listener = await listen(f"unix:{path}", asyncio.Protocol)
    assert of_child(lambda: listener.close() is None)
    assert os.path.exists(path)
    listener.close()
    assert not os.path.exists(path)

with tempfile.TemporaryDirectory() as folder:
    uvloop.run(main(f"{folder}/s"))
""",
}


@pytest.mark.parametrize("case", CASES)
def test_in_a_child(case: str) -> None:
    done = subprocess.run([sys.executable, "-c", FORK + CASES[case]], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
