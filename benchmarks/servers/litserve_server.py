"""LitServe: one LitAPI on the CPU."""

import sys
import time
from typing import Annotated

import litserve
from chunks import async_chunks, chunks
from fastapi import Body, Response
from faulty import TIMEOUT_S, echo


class Hello(litserve.LitAPI):
    def setup(self, device):
        pass

    def predict(self, data):
        return "hello"


class Sleep(Hello):
    def predict(self, data):
        time.sleep(0.01)
        return "hello"


class Json(Hello):
    def predict(self, data):
        return data


class Upload(Hello):
    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]):
        return request

    def predict(self, data):
        return len(data)


class Download(Hello):
    def predict(self, data):
        return bytes(data["bytes"])

    def encode_response(self, output):
        return Response(output, media_type="application/octet-stream")


class Batch(Hello):
    def predict(self, data):
        time.sleep(0.01)
        return ["hello"] * len(data)


class Stream(Hello):
    def predict(self, data):
        yield from chunks(data["chunks"], data["pause_ms"] / 1000)

    def encode_response(self, output):
        yield from output


class Astream(Hello):
    async def predict(self, data):
        async for chunk in async_chunks(data["chunks"], data["pause_ms"] / 1000):
            yield chunk

    async def encode_response(self, output):
        async for chunk in output:
            yield chunk


class Echo(Hello):
    def predict(self, data):
        return echo(data)


OPTIONS = {
    "Batch": {"max_batch_size": 16, "batch_timeout": 0.01},
    "Stream": {"stream": True},
    "Astream": {"stream": True, "enable_async": True},
}

if __name__ == "__main__":
    handler, port, replicas = sys.argv[1:]
    name = handler.capitalize()
    api = globals()[name](api_path=f"/{handler}", **OPTIONS.get(name, {}))
    more = {"timeout": TIMEOUT_S, "restart_workers": True} if handler == "echo" else {}
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(replicas), **more)
    server.run(host="127.0.0.1", port=int(port), log_level="warning", generate_client_file=False)
