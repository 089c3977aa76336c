from __future__ import annotations

import pickle
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest

from servekit.replica.target import Target, load
from servekit.targets import pack_target

SCRIPT = """
import pickle, sys
from multiprocessing.reduction import ForkingPickler
from servekit.replica import pools
from servekit.replica.target import load

pools.install()
target = load(sys.stdin.buffer.read()).target
referred = bytes(ForkingPickler.dumps(target))
assert pickle.loads(referred) is target
assert b"/proc/" in referred and len(referred) < 200, "the script goes into a file, once"
unnamed = bytes(ForkingPickler.dumps(lambda: target(3)))
assert pickle.loads(unnamed)() == 6
assert bytes(ForkingPickler.dumps([print, pickle.Pickler])) == pickle.dumps([print, pickle.Pickler], 4)
try:
    pools.found("", "__main__", "nothing")
except AttributeError as error:
    print(error)
"""


def test_what_came_with_the_target_is_referred_to_and_the_rest_is_as_ever() -> None:
    packed = pack_target(_of_main(), (), None).data
    ran = subprocess.run([sys.executable, "-c", SCRIPT], input=packed, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode()
    assert ran.stdout == b"the script of this replica has no 'nothing'\n"


def _of_main() -> Any:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec("def double(number):\n    return 2 * number", space)
    return space["double"]


def test_processes_that_are_no_replicas_pickle_as_ever() -> None:
    assert load(pack_target(_of_main(), (), None).data).target(2) == 4
    assert "reducer_override" not in vars(ForkingPickler)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        ForkingPickler.dumps(lambda: Target)
