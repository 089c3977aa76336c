"""Ray Serve: one application, one deployment."""

import signal
import sys
import time

import ray
from calls import time_calls
from chunks import async_chunks, chunks
from faulty import TIMEOUT_S, echo
from ray import serve
from starlette.responses import StreamingResponse


class Hello:
    async def __call__(self, request):
        return "hello"


class Sleep:
    async def __call__(self, request):  # blocks its replica, so that each has one call at a time, as everywhere else
        time.sleep(0.01)  # noqa: ASYNC251
        return "hello"


class Json:
    async def __call__(self, request):
        return await request.json()


class Upload:
    async def __call__(self, request):
        return str(len(await request.body()))


class Download:
    async def __call__(self, request):
        return bytes(int(request.query_params["bytes"]))


class Batch:
    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.01)
    async def __call__(self, requests):
        time.sleep(0.01)  # noqa: ASYNC251
        return ["hello"] * len(requests)


class Stream:
    async def __call__(self, request):
        options = request.query_params
        return StreamingResponse(chunks(int(options["chunks"]), float(options["pause_ms"]) / 1000))


class Astream:
    async def __call__(self, request):
        options = request.query_params
        return StreamingResponse(async_chunks(int(options["chunks"]), float(options["pause_ms"]) / 1000))


class Double:
    async def __call__(self, number):
        return 2 * number


class Compose:
    def __init__(self, double):
        self.double = double

    async def __call__(self, request):
        options = request.query_params
        return str(await time_calls(self.double.remote, int(options["calls"]), int(options["at_once"])))


class Echo:
    async def __call__(self, request):
        body = await request.json() if request.method == "POST" else {}
        return echo({**request.query_params, **body})


if __name__ == "__main__":
    handler, port, replicas = sys.argv[1:]
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
    http = {"host": "127.0.0.1", "port": int(port)}
    if handler == "echo":
        http["request_timeout_s"] = TIMEOUT_S
    serve.start(http_options=http, logging_config={"enable_access_log": False})
    options = {
        "num_replicas": int(replicas),
        "max_ongoing_requests": 100,  # with the default of 5, requests wait for a replica, in steps that grow
        "ray_actor_options": {"num_cpus": 0},  # so that 4 of them fit on any machine
    }
    if handler == "echo":  # its defaults are 10 s, 30 s and 20 s, and a queue without an end
        options |= {"health_check_period_s": 1, "health_check_timeout_s": 2, "graceful_shutdown_timeout_s": 2}
        options |= {"max_ongoing_requests": 5, "max_queued_requests": 1000}
    parts = [serve.deployment(Double, **options).bind()] if handler == "compose" else []
    deployment = serve.deployment(globals()[handler.capitalize()], **options)
    serve.run(deployment.bind(*parts), route_prefix=f"/{handler}")
    signal.pause()
