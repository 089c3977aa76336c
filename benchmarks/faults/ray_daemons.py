"""Ray's own processes are killed: those of the local Ray that an instance on Ray starts."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from benchmarks.faults.row import Row, seconds
from benchmarks.faults.scene import Scene, inside_meanwhile, kill, named, scene, watched
from servekit.errors import ServekitError

LASTS_S = 75.0
"""Ray ends a process 60 s after it has lost its GCS: what holds until then may not hold after it."""
CHANGE_S = 20.0
DIED_WITH_IT = "what was inside: replicas are Ray's processes, and end with it"


def daemon(what: str, *words: str, standing: bool = False) -> Callable[[str], Row]:
    """``words``: what is in its command line."""

    def run(runtime: str) -> Row:
        with scene(runtime, standing=standing) as at:
            with watched(at, timeout_s=30.0) as watch:
                killed = set(named(*words))
                with watch.fault():
                    kill([*killed])
                watch.until_whole(lambda: set(named(*words)) - killed and len(at.replicas()) == 4, LASTS_S)
                time.sleep(max(0.0, watch.began_s + LASTS_S - time.monotonic()))
                watch.notes.append(f"{LASTS_S:.0f} s later: {fifth(at)}")
            kind = "a standing instance" if standing else "an owned instance"
            return watch.row(f"kill -9 of {what}, {kind}", inside_meanwhile, DIED_WITH_IT)

    return run


def fifth(at: Scene) -> str:
    """What comes of a change that needs Ray."""
    came: list[str] = []
    began_s = time.monotonic()

    def change() -> None:
        try:
            at.instance.update_backend_config("echo", {"num_replicas": 5})
        except ServekitError as error:
            came.append(f"a change fails, {type(error).__name__} after {seconds(time.monotonic() - began_s)}")
        else:
            came.append(f"a replica more came after {seconds(time.monotonic() - began_s)}")

    thread = threading.Thread(target=change, daemon=True)
    thread.start()
    thread.join(CHANGE_S)
    ready = 0
    with contextlib.suppress(ServekitError):
        ready = len(at.replicas())
    return f"{came[0] if came else f'a change has not returned after {CHANGE_S:.0f} s'}; {ready} replicas are ready"


FAULTS = {
    "gcs": daemon("Ray's gcs_server", "gcs_server"),
    "raylet": daemon("Ray's raylet", "raylet/raylet"),
    "ray-keeper": daemon("Ray's keeper", "servekit: Ray keeper of"),
    "gcs-standing": daemon("Ray's gcs_server", "gcs_server", standing=True),
    "raylet-standing": daemon("Ray's raylet", "raylet/raylet", standing=True),
    "ray-keeper-standing": daemon("Ray's keeper", "servekit: Ray keeper of", standing=True),
}
