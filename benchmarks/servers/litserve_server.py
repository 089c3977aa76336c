"""LitServe: one LitAPI on the CPU."""

import sys
import time
from typing import Annotated

import litserve
from fastapi import Body, Response


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


if __name__ == "__main__":
    handler, port, replicas = sys.argv[1:]
    api = globals()[handler.capitalize()](api_path=f"/{handler}")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(replicas))
    server.run(host="127.0.0.1", port=int(port), log_level="warning", generate_client_file=False)
