"""servekit: one endpoint, one backend, one ingress worker; the handler gets a flask.Request."""

import signal
import sys
import time

import servekit


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


if __name__ == "__main__":
    runtime, handler, port, replicas = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with servekit.init(runtime=runtime, http_port=int(port)):
        servekit.create_backend("backend", globals()[handler], config={"num_replicas": int(replicas)})
        servekit.create_endpoint("endpoint", f"/{handler}", ["GET", "POST"], backend="backend")
        signal.pause()
