"""``servekit run``: scripts and targets, served in the foreground, and what their ends leave."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.instances.instance_tools import Scripts, fresh_get
from tests.support.waiting import until

from servekit.cli.run import SaysWhere

RUN = '"$PYTHON" -m servekit.cli.main run --http-port 0'
LIMIT_S = 60


def started(scripts: Scripts, line: str, *said: str) -> tuple[subprocess.Popen[str], str]:
    """The command, once it has ``said`` all of that, and where it answers."""
    process = scripts.shell(f"exec {line}")
    assert process.stdout is not None
    printed = []
    for text in process.stdout:
        printed.append(text)
        if "answers at " in text:
            assert not [words for words in said if words not in "".join(printed)]
            return process, text.rpartition("answers at ")[2].strip()
    raise AssertionError("".join(printed))


def answer_of(url: str) -> str:
    """Empty while nothing listens there: between two starts, say."""
    try:
        return fresh_get(url).text
    except httpx.TransportError:
        return ""


HELPER = "WORD = 'helped'\n"
SCRIPT = """
import pickle, sys, time
import helper
import servekit as serve

class Answer:
    def __init__(self, text):
        self.text = text

def answer(request):
    time.sleep(float(request.args.get("sleep_s", 0)))
    return {"text": Answer(helper.WORD).text, "argv": ARGV, "main": __name__}

ARGV = sys.argv
assert pickle.loads(pickle.dumps(Answer("x"))).text == "x"
assert sys.modules["__main__"].Answer is Answer
if "init" in ARGV:
    serve.init(http_port=1, debug=True)  # The command has said which port.
serve.create_backend("answer", answer)
serve.create_endpoint("answer", "/answer", backend="answer")
if "wait" in ARGV:
    serve.wait()
while "loop" in ARGV:
    time.sleep(0.1)
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "number"),
    [(["ends"], signal.SIGTERM), (["init", "wait"], signal.SIGINT), (["loop"], signal.SIGTERM)],
    ids=["ends", "waits", "loops"],
)
def test_a_script_serves_until_a_signal_and_what_is_in_flight_is_answered(
    scripts: Scripts, arguments: list[str], number: signal.Signals
) -> None:
    (scripts.folder / "sub").mkdir()
    scripts.write("sub/helper.py", HELPER)
    scripts.write("sub/app.py", SCRIPT)
    process, url = started(scripts, f"{RUN} sub/app.py {' '.join(arguments)}")
    answer = fresh_get(f"{url}/answer").json()
    assert answer == {"text": "helped", "argv": ["sub/app.py", *arguments], "main": "__main__"}
    slow: list[int] = []
    asking = threading.Thread(target=lambda: slow.append(fresh_get(f"{url}/answer?sleep_s=1").status_code))
    asking.start()
    with httpx.Client(base_url=url) as client:
        # The one replica has the slow request by then: this one comes after it.
        assert client.get("/answer").status_code == 200 or slow
    process.send_signal(number)
    assert process.wait(LIMIT_S) == 0
    asking.join()
    assert slow == [200]
    assert process.stdout is not None
    assert "Traceback" not in process.stdout.read()
    until(lambda: not scripts.processes())


def test_where_it_answers_is_said_once_when_something_is_served(serve_instance: Any, capsys: Any) -> None:
    instance = serve_instance.instance
    SaysWhere(instance)
    instance.create_backend("f", lambda request: "f")
    instance.create_endpoint("early", "/early")
    assert capsys.readouterr().out == ""
    instance.set_traffic("early", {"f": 1.0})
    assert capsys.readouterr().out.count("servekit: ") == 1
    instance.create_endpoint("late", "/late", backend="f")
    instance._waits()
    assert capsys.readouterr().out == ""


ENDS = {
    "raises": "def f():\n    1 / 0\nf()\n",
    "does not parse": "x = = 1\n",
    "exits with text": "raise SystemExit('no weights')\n",
    "exits with a number": "import sys\nsys.exit(7)\n",
    "cannot import": "import nothing_of_that_name\n",
}


@pytest.mark.parametrize("name", ENDS)
def test_a_script_that_fails_ends_as_with_python(name: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(ENDS[name])
    own, python = (
        subprocess.run([sys.executable, *how, "app.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
        for how in (["-m", "servekit.cli.main", "run"], [])
    )
    assert (own.returncode, own.stderr, own.stdout) == (python.returncode, python.stderr, python.stdout)


@pytest.mark.processes
def test_a_script_that_fails_once_it_serves_leaves_nothing(scripts: Scripts) -> None:
    script = scripts.write("app.py", f"{SCRIPT}\nraise ValueError('too late')")
    scripts.write("helper.py", HELPER)
    process, _ = started(scripts, f"{RUN} {script}")
    assert process.stdout is not None
    printed = process.stdout.read()
    assert process.wait(LIMIT_S) == 1
    assert printed.rstrip().endswith("ValueError: too late")
    assert "servekit/cli" not in printed
    until(lambda: not scripts.processes())


TARGETS = """
import flask

app = flask.Flask(__name__)

@app.get("/page")
def page():
    return "a page"

def double(number: int):
    return {"double": 2 * number}
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("target", "path", "text"),
    [("my_module:double --route /x", "?number=4", '{"double":8}'), ("my_module:app", "page", "a page")],
)
def test_a_target_is_served(scripts: Scripts, target: str, path: str, text: str) -> None:
    scripts.write("my_module.py", TARGETS)
    process, url = started(scripts, f"{RUN} -v {target}", "\nplugin process from servekit 0.1.0: ")
    assert fresh_get(url + path).text.strip() == text
    process.terminate()
    assert process.wait(LIMIT_S) == 0


@pytest.mark.parametrize(
    ("app", "message"),
    [
        ("nowhere.py", "the script 'nowhere.py' cannot be read: No such file"),
        ("nothing_of_that_name:app", "there is no 'nothing_of_that_name:app' here: ModuleNotFoundError"),
        ("json:nothing", "there is no 'json:nothing' here: AttributeError"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(app: str, message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "servekit.cli.main", "run", app],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"servekit: {message}")
    assert done.stderr.count("\n") == 1


def test_a_script_that_serves_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import servekit\n")
    command = [sys.executable, "-m", "servekit.cli.main", "run", "app.py", "--http-port", "0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "app.py is given --http-port; what is for servekit run stands before the script" in done.stderr
    assert "app.py has ended and serves nothing" in done.stderr


def test_a_port_that_is_taken_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import servekit\nservekit.init(http_port=0)\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "servekit.cli.main", "run", "app.py"]
        environ = {**os.environ, "PORT": port}
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"servekit: 127.0.0.1:{port} cannot be listened on")
    assert done.stderr.count("\n") == 1


@pytest.mark.processes
def test_a_change_starts_it_again_and_an_error_waits_for_the_next(scripts: Scripts) -> None:
    pytest.importorskip("watchfiles")
    source = "import servekit as serve\ndef f(request): return '{}'\nserve.create_backend('f', f)\n"
    source += "serve.create_endpoint('f', '/', backend='f')\n"
    script = scripts.write("app.py", "x = = 1\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    process = scripts.shell(f"exec {RUN} --http-port {url[17:-1]} --reload app.py")
    assert process.stdout is not None
    lines = iter(process.stdout)
    assert any("SyntaxError" in line for line in lines)
    assert any("waiting for a change" in line for line in lines)
    for text in ("one", "two"):
        # Its name is never that of a file which is half written.
        scripts.write("new", source.format(text)).rename(script)
        assert any(f"answers at {url[:-1]}" in line for line in lines)
        until(lambda text=text: answer_of(url) == text, LIMIT_S)
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: not scripts.processes(), LIMIT_S)
