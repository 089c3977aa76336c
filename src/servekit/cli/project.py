"""A small project to begin with: `init`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from servekit.errors import AlreadyExistsError, InvalidInputError

APP = '''"""What is served: `servekit run app.py`, and then http://127.0.0.1:8000/hello?name=you"""

import servekit as serve


class Greeter:
    """Built once in each replica: what is costly to load belongs in __init__."""

    def __init__(self, greeting):
        self.greeting = greeting

    def __call__(self, name: str = "world"):
        return {"message": f"{self.greeting}, {name}"}


def create():
    serve.create_backend("greeter", Greeter, "hello")
    serve.create_endpoint("hello", "/hello", backend="greeter")


if __name__ == "__main__":
    create()
'''
TEST = '''"""The same validation, routing and calls, in one process: `pytest`."""

import app


def test_it_greets_by_name(serve_instance):
    app.create()
    assert serve_instance.client.get("/hello?name=you").json() == {"message": "hello, you"}
    assert serve_instance.client.get("/hello").json() == {"message": "hello, world"}
'''
CONFIGURATION = """[endpoints.hello]
route = "/hello"
traffic = { greeter = 1.0 }

[backends.greeter]
target = "app:Greeter"
args = ["hello"]
adapter = "json"      # what the annotations of __call__ say

[backends.greeter.config]
num_replicas = 2
"""
README = """# What is here

* `app.py`: what is served. `servekit run app.py`, and then
  `curl 'http://127.0.0.1:8000/hello?name=you'`. `servekit run --reload app.py`
  starts again when a file changes.
* `test_app.py`: its test. `pip install 'servekit[testing]'`, and then `pytest`.
* `servekit.toml`: the same, for an instance that stands. `servekit start` runs
  one, and `servekit deploy servekit.toml` has it serve what the file says.
"""
FILES = {"app.py": APP, "test_app.py": TEST, "servekit.toml": CONFIGURATION, "README.md": README}


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path())
def init(folder: str) -> None:
    """Make a small project in DIR: app.py, a test, a configuration.

    A folder that is not empty is left as it is.
    """
    if not folder:
        raise click.UsageError("the name of DIR is empty; name a folder, or . for this one")
    _make(Path(folder))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise AlreadyExistsError(f"{str(folder)!r} is not empty; choose a folder that is, or is not there yet")
        for name, text in FILES.items():
            (folder / name).write_text(text)
    except OSError as error:
        raise InvalidInputError(f"no project can be made in {str(folder)!r}: {error.strerror or error}") from error
    click.echo(f"servekit: {', '.join(FILES)} are in {folder}; serve it with")
    click.echo(f"    cd {shlex.quote(str(folder))} && servekit run app.py")
