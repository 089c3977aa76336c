"""servekit: one endpoint, one backend, one ingress worker; the handler gets a flask.Request."""

import signal
import sys
import time

from calls import time_calls
from chunks import async_chunks, chunks
from faulty import TIMEOUT_S
from faulty import echo as faulty_echo

import servekit
from servekit.config import BackendConfig


def hello(request):
    return "hello"


def sleep(request):
    time.sleep(0.01)
    return "hello"


def json(request):
    return request.get_json()


def upload(request):
    return str(len(request.get_data()))


def download(request):
    return bytes(int(request.args["bytes"]))


@servekit.accept_batch
def batch(requests):
    time.sleep(0.01)
    return ["hello"] * len(requests)


def stream(request):
    return chunks(int(request.args["chunks"]), float(request.args["pause_ms"]) / 1000)


async def astream(request):
    return async_chunks(int(request.args["chunks"]), float(request.args["pause_ms"]) / 1000)


async def compose(request):
    double = servekit.get_handle("double")
    return str(await time_calls(double.remote, int(request.args["calls"]), int(request.args["at_once"])))


def double(request, number):
    return 2 * number


def echo(request):
    return faulty_echo({**request.args, **(request.get_json(silent=True) or {})})


CONFIGS = {
    "echo": {"hang_grace_s": TIMEOUT_S} if "hang_grace_s" in BackendConfig.__struct_fields__ else {},
    "batch": {"max_batch_size": 16, "batch_wait_timeout": 0.01},
    "stream": {"max_concurrent_queries": 64},
}

if __name__ == "__main__":
    runtime, handler, port, replicas = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with servekit.init(runtime=runtime, http_port=int(port)):
        if handler == "compose":
            servekit.create_backend("double", double)
            servekit.create_endpoint("double", backend="double")
        config = {"num_replicas": int(replicas), **CONFIGS.get(handler, {})}
        servekit.create_backend("backend", globals()[handler], config=config)
        options = {"timeout_s": TIMEOUT_S} if handler == "echo" else {}
        servekit.create_endpoint("endpoint", f"/{handler}", ["GET", "POST"], backend="backend", **options)
        signal.pause()
