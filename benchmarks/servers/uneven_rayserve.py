"""Ray Serve with an uneven deployment; see rayserve_server.py for the settings."""

import signal
import sys

import ray
from ray import serve
from uneven import Uneven


class UnevenDeployment:
    def __init__(self, folder):
        self.handler = Uneven(folder)

    async def __call__(self, request):  # blocks its replica, so that each has one call at a time, as everywhere else
        return self.handler(request)


if __name__ == "__main__":
    folder, port, replicas = sys.argv[1:]
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)}, logging_config={"enable_access_log": False})
    options = {"num_replicas": int(replicas), "max_ongoing_requests": 100, "ray_actor_options": {"num_cpus": 0}}
    serve.run(serve.deployment(UnevenDeployment, **options).bind(folder), route_prefix="/uneven")
    signal.pause()
