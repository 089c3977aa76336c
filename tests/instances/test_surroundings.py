"""What surrounds the process that calls `init` does it no harm, or is said: descriptors, folders, variables, signals,
the user's logging. Each is a script of its own."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from instance_tools import Scripts, fresh_get
from tests.support.waiting import until

import servekit as serve
from servekit import errors, inprocess
from servekit.plugins import discover

pytestmark = pytest.mark.processes

BESIDE = """
from servekit.interfaces import RoutingPolicy

class Last(RoutingPolicy):
    def choose_backend(self, request, backends):
        return backends[-1]
"""
APP = """
import json, os, urllib.request
import servekit as serve

def whose(request):
    import sched
    return sched.__file__

serve.init(runtime="process", http_port=0)
serve.create_backend("b", whose)
serve.create_endpoint("e", "/e", backend="b", policy="beside:Last")
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
answer = direct.open(serve.api.current().url + "/e").read().decode()
serve.shutdown()
with open(os.environ["TOLD"], "w") as file:
    json.dump(answer, file)
"""
PYTHON = '"$PYTHON"'
BLOCKED = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); exec(open('app.py').read())"
SERVED = {
    "nothing special": f"{PYTHON} app.py",
    "standard input closed": f"{PYTHON} app.py <&-",
    "standard output closed": f"{PYTHON} app.py >&-",
    "standard error closed": f"{PYTHON} app.py 2>&-",
    "all three closed, as in a daemon": f"{PYTHON} app.py <&- >&- 2>&-",
    "a working directory full of names of the standard library": f"cd names; {PYTHON} ../app.py",
    "a script beside such a name": f"cp app.py beside.py names/sched.py mine; cd /; {PYTHON} $TMPDIR/mine/app.py",
    "such names on PYTHONPATH": f"cp names/sqlite3.py names/sched.py mine; PYTHONPATH=mine:$PYTHONPATH {PYTHON} app.py",
    "certificates that are not there": f"SSL_CERT_FILE=/nowhere SSL_CERT_DIR=/nowhere {PYTHON} app.py",
    "a log of keys that cannot be written": f"SSLKEYLOGFILE=/nowhere/keys {PYTHON} app.py",
    "signals blocked": f'{PYTHON} -c "{BLOCKED}"',
    "whatever else a shell may have set": (
        "trap '' INT TERM HUP; umask 0777; export HTTP_PROXY=http://127.0.0.1:1 ALL_PROXY=socks5://127.0.0.1:1 "
        f"PYTHONWARNINGS=error LC_ALL=C HOME=/nowhere PYTHONPATH=$PYTHONPATH:; {PYTHON} - <app.py"
    ),
}


@pytest.fixture
def surroundings(scripts: Scripts) -> Scripts:
    scripts.write("app.py", APP)
    scripts.write("beside.py", BESIDE)
    names = scripts.folder / "names"
    names.mkdir()
    for name in sys.stdlib_module_names:
        (names / f"{name}.py").write_text(f"raise SystemExit('{name}.py was executed')")
    (scripts.folder / "mine").mkdir()
    return scripts


@pytest.mark.parametrize("line", SERVED.values(), ids=SERVED)
def test_it_serves(surroundings, line):
    script = surroundings.shell(line)
    printed, _ = script.communicate(timeout=120)
    assert script.returncode == 0, printed
    assert not re.search("WARNING|ERROR|Traceback", printed), printed
    answer = json.loads((surroundings.folder / "told").read_text())
    assert Path(answer).parent == Path(os.__file__).parent
    until(lambda: not surroundings.processes())
    assert surroundings.instances == []


GONE = """
import json, os, shutil, signal, time
import servekit as serve

def hello(request):
    return "hello"

def told(call):
    try:
        call()
    except serve.errors.ServekitError as error:
        return [type(error).__name__, str(error)]

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.chdir("mine")
serve.init(runtime="process", http_port=0)
serve.create_backend("b", hello)
shutil.rmtree(os.getcwd())
pids = lambda: {r["pid"] for r in serve.status()["backends"]["b"]["replicas"] if r["state"] == "ready"}
(before,) = pids()
os.kill(before, signal.SIGKILL)
ends = time.monotonic() + 60
while not pids() - {before}:
    assert time.monotonic() < ends, serve.status()
    time.sleep(0.02)
answer = {
    "failure": serve.status()["backends"]["b"]["last_failure"],
    "create_backend": told(lambda: serve.create_backend("c", hello)),
}
serve.shutdown()
answer["init"] = told(lambda: serve.init(runtime="process", http_port=0))
with open(os.environ["TOLD"], "w") as file:
    json.dump(answer, file)
"""


def test_a_working_directory_that_goes_is_said_and_keeps_no_replica_from_being_replaced(surroundings):
    """And how a replica ended is known where SIGCHLD is ignored."""
    surroundings.write("gone.py", GONE)
    script = surroundings.shell(f"{PYTHON} gone.py")
    printed, _ = script.communicate(timeout=120)
    assert script.returncode == 0, printed
    answer = json.loads((surroundings.folder / "told").read_text())
    assert answer["failure"].endswith("killed by SIGKILL")
    for call, error in (("create_backend", "BackendStartError"), ("init", "InstanceStartError")):
        name, said = answer[call]
        assert name == error
        assert "working directory" in said
        assert "os.chdir()" in said


CHILDREN = """
import json, multiprocessing, os, sys
import servekit as serve

FLAGS = "tuple(__import__('sys').flags)"

def flags(request):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return json.dumps(pool.apply(eval, (FLAGS,)))

if __name__ == "__main__":
    serve.init(runtime="process", http_port=0)
    serve.create_backend("b", flags)
    serve.create_endpoint("e", backend="b")
    answer = serve.get_handle("e").remote().result()
    serve.shutdown()
    with open(os.environ["TOLD"], "w") as file:
        json.dump([json.loads(answer), list(sys.flags)], file)
"""


def test_children_of_a_handler_have_the_flags_that_those_of_a_script_have(surroundings):
    surroundings.write("children.py", CHILDREN)
    script = surroundings.shell(f"{PYTHON} children.py")
    printed, _ = script.communicate(timeout=120)
    assert script.returncode == 0, printed
    of_child, of_script = json.loads((surroundings.folder / "told").read_text())
    assert of_child == of_script


@pytest.mark.parametrize("where", ["the working directory", "the script's folder", "TMPDIR"])
def test_a_name_that_is_not_utf_8_is_said(surroundings, where):
    os.mkdir(os.fsencode(surroundings.folder) + b"/lat\xe8in")
    line = {
        "the working directory": f"cd lat*in; {PYTHON} ../app.py",
        "the script's folder": f"cp app.py lat*in; {PYTHON} lat*in/app.py",
        "TMPDIR": f"TMPDIR=$(echo $TMPDIR/lat*in) {PYTHON} app.py",
    }[where]
    printed, _ = surroundings.shell(line).communicate(timeout=120)
    assert "servekit.errors.InvalidInputError: the path" in printed, printed
    assert "is not UTF-8" in printed
    assert surroundings.instances == []


# -- TMPDIR -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(scripts):
    return scripts.folder


@pytest.mark.parametrize(
    "start", [lambda: serve.init(runtime="process", http_port=0), lambda: inprocess.InProcessInstance(discover())]
)
@pytest.mark.parametrize("what", ["nothing", "a file"])
def test_a_tmpdir_that_cannot_be_used_is_named(folder, monkeypatch, what, start):
    place = folder / "place"
    if what == "a file":
        place.touch()
    monkeypatch.setenv("TMPDIR", str(place))
    with pytest.raises(errors.InstanceStartError, match=re.escape(f"TMPDIR is {str(place)!r}")):
        start()
    assert place.exists() == (what == "a file")


def test_a_tmpdir_has_room_for_the_longest_socket_or_is_refused(folder, monkeypatch):
    below = f"/servekit-{os.getuid()}/default-01234567/r9999999999-abcdef.sock"
    room = 107 - len(below) - len(f"{folder}/")
    for length in (room + 1, room):
        place = folder / ("x" * length)
        place.mkdir()
        monkeypatch.setenv("TMPDIR", str(place))
        if length > room:
            with pytest.raises(errors.InvalidInputError, match=r"1 bytes too long .* TMPDIR"):
                serve.init(runtime="process", http_port=0)
            assert list(place.iterdir()) == []
    with serve.init(runtime="process", http_port=0) as instance:
        serve.create_backend("b", "builtins:repr")
        serve.create_endpoint("e", "/e", backend="b")
        assert fresh_get(f"{instance.url}/e").status_code == 200


# -- the user's logging -------------------------------------------------------------------------------------------

LOGGING = """
import logging, logging.config, sys, urllib.error, urllib.request
import servekit as serve

class Faulty:
    def __init__(self, how):
        handlers = {"h": {"class": "logging.StreamHandler", "formatter": "f"}}
        formatters = {"f": {"format": how + " says %(message)s"}}
        root = {"level": "INFO", "handlers": ["h"]}
        config = {"version": 1, "handlers": handlers, "formatters": formatters, "root": root}
        if how == "basic":
            logging.basicConfig(level=logging.INFO, format="basic says %(message)s")
        elif how == "dict":
            logging.config.dictConfig(config)
        elif how == "named":
            logging.config.dictConfig({**config, "loggers": {"servekit": {"level": "ERROR"}}})

    def __call__(self, request):
        logging.getLogger("mine").info("line of mine")
        raise ValueError("trouble of mine")

serve.init(runtime="process", http_port=0)
serve.create_backend("b", Faulty, sys.argv[1])
serve.create_endpoint("e", "/e", backend="b")
try:
    urllib.request.urlopen(serve.api.current().url + "/e")
except urllib.error.HTTPError as error:
    assert error.code == 500
serve.shutdown()
"""


@pytest.mark.parametrize("how", ["none", "basic", "dict", "named"])
def test_a_handlers_logging_is_set_up_by_the_handler_and_takes_no_line_of_servekits(surroundings, how):
    surroundings.write("log.py", LOGGING)
    script = surroundings.shell(f"{PYTHON} log.py {how}")
    printed, _ = script.communicate(timeout=120)
    assert script.returncode == 0, printed
    lines = printed.splitlines()
    assert [line for line in lines if "line of mine" in line] == ([] if how == "none" else [f"{how} says line of mine"])
    assert lines.count("ValueError: trouble of mine") == 1
    named = r"\S+Z ERROR replica b r1-[0-9a-f]{6} \[request \S+, endpoint e\] "
    begins = ("named says " if how == "named" else named) + "GET /e failed"
    assert [bool(re.match(begins, line)) for line in lines if "GET /e failed" in line] == [True]
