"""The peers: what each is made of, how it is started, and what a client has to send it.

Every server serves one of these handlers at a time, on ``/HANDLER``, in 1 or more replicas (workers):

* ``hello`` answers ``hello``; ``sleep`` does so after 10 ms of ``time.sleep``;
* ``json`` parses what it is sent and sends it back;
* ``upload`` takes bytes and answers their number; ``download`` answers as many bytes as it is asked for;
* ``batch`` answers ``hello`` to up to 16 calls at once, after 10 ms of ``time.sleep``;
* ``compose`` calls another handler, which doubles a number, by a handle: as many times, and as many at a time, as it is
  asked to, and answers how many seconds that took;
* ``stream`` makes as many small chunks as it is asked for, by a generator; ``astream`` by an async generator;
* ``echo`` answers with the id that it was sent, after 2 ms of ``time.sleep``, and dies or hangs where it is asked to.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
HANDLERS = ("hello", "sleep", "json", "upload", "download")
"""Every peer has these, unless it says otherwise."""
STREAMS = ("stream", "astream")
BATCH_SIZE = 16

Headers = dict[str, str]


@dataclass(frozen=True)
class Call:
    """One HTTP request, as a client sends it again and again."""

    method: str
    path: str
    body: bytes = b""
    headers: Headers = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """A server to be measured. ``arguments`` go to the venv's Python, with the handler, port and replicas filled in."""

    name: str
    arguments: str
    requirements: tuple[str, ...] = ()
    handlers: tuple[str, ...] = HANDLERS
    takes_get: bool = True
    """False: handlers are called by POST alone, with JSON, as the framework has it by default."""
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, python: str, handler: str, port: int, replicas: int) -> list[str]:
        """What starts it, in `FOLDER`."""
        return [python, *self.arguments.format(handler=handler, port=port, replicas=replicas).split()]

    def call(self, handler: str, size: int = 0, pause_ms: float = 0, at_once: int = 1) -> Call:
        """What a client sends.

        Args:
            size: the body's length for upload and download, for streams the chunks in each, for compose the calls.
            pause_ms: between two chunks of a stream.
            at_once: calls that compose has under way at a time.
        """
        path = f"/{handler}"
        if handler == "json":
            return Call("POST", path, DOCUMENT, JSON)
        if handler == "upload":
            return Call("POST", path, bytes(size), {"Content-Type": "application/octet-stream"})
        options: dict[str, float] = {}
        if handler == "download":
            options = {"bytes": size}
        elif handler in STREAMS:
            options = {"chunks": size, "pause_ms": pause_ms}
        elif handler == "compose":
            options = {"calls": size, "at_once": at_once}
        if self.takes_get:
            return Call("GET", f"{path}?{urlencode(options)}" if options else path)
        return Call("POST", path, json.dumps(options).encode(), JSON)


JSON = {"Content-Type": "application/json"}
DOCUMENT = json.dumps({"values": [round(1000 + i * 0.37, 2) for i in range(1150)]}).encode()
"""10 KB of JSON."""

FLASK = "flask==3.1.3"
SERVEKIT = ("-e", f"{ROOT}[ray]", "ray==2.60.0", FLASK)
NO_REPORTS = {"RAY_USAGE_STATS_ENABLED": "0", "BENTOML_DO_NOT_TRACK": "True"}

EVERY = (*HANDLERS, "batch", *STREAMS)
COMPOSING = (*EVERY, "echo", "compose")
"""Of those that have handles."""

PEERS = (
    Peer("servekit-process", "servekit_server.py process {handler} {port} {replicas}", SERVEKIT, COMPOSING),
    Peer(
        "servekit-ray",
        "servekit_server.py ray {handler} {port} {replicas}",
        SERVEKIT,
        COMPOSING,
        environment=NO_REPORTS,
    ),
    Peer(
        "rayserve",
        "rayserve_server.py {handler} {port} {replicas}",
        ("ray[serve]==2.60.0",),
        COMPOSING,
        environment=NO_REPORTS,
    ),
    # Its streams are made by a method that sends, not by a generator.
    Peer(
        "mosec",
        "mosec_server.py {handler} {port} {replicas}",
        ("mosec==0.9.8",),
        (*HANDLERS, "batch", "stream", "echo"),
        takes_get=False,
    ),
    Peer(
        "litserve",
        "litserve_server.py {handler} {port} {replicas}",
        ("litserve==0.2.19",),
        (*EVERY, "echo"),
        takes_get=False,
    ),
    Peer(
        "bentoml",
        "-m bentoml serve bentoml_server:replicas_{replicas} --host 127.0.0.1 --port {port}",
        ("bentoml==1.4.40",),
        takes_get=False,
        environment=NO_REPORTS,
    ),
    # One thread a worker: a call of the handler at a time, as a replica has it. gthread, as sync closes connections.
    Peer(
        "gunicorn",
        "-m gunicorn --worker-class gthread --threads 1 --workers {replicas} --keep-alive 60"
        " --bind 127.0.0.1:{port} --log-level warning flask_app:app",
        ("gunicorn==27.0.1", FLASK),
    ),
    Peer(
        "granian",
        "-m granian --interface wsgi --blocking-threads 1 --workers {replicas}"
        " --host 127.0.0.1 --port {port} --log-level warning flask_app:app",
        ("granian==2.8.7", FLASK),
    ),
    # The physical limit: two hops with nothing behind them. It has no handler that sleeps or parses.
    Peer("nginx", "nginx_server.py {port} {replicas}", handlers=("hello", "upload", "download")),
)
