"""mosec: one worker class, in as many processes as there are replicas."""

import sys
import time

import mosec


class Hello(mosec.Worker):
    def forward(self, data):
        return "hello"


class Sleep(mosec.Worker):
    def forward(self, data):
        time.sleep(0.01)
        return "hello"


class Json(mosec.Worker):
    def forward(self, data):
        return data


class Upload(mosec.Worker):
    def deserialize(self, data):
        return data

    def forward(self, data):
        return len(data)


class Download(mosec.Worker):
    resp_mime_type = "application/octet-stream"

    def forward(self, data):
        return bytes(data["bytes"])

    def serialize(self, data):
        return data


if __name__ == "__main__":
    handler, port, replicas = sys.argv[1:]
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", port, "--log-level", "warning"]  # mosec reads its options here
    sys.argv += ["--max-request-size", str(64 * 1024 * 1024)]
    server = mosec.Server()
    server.append_worker(globals()[handler.capitalize()], num=int(replicas), route=f"/{handler}")
    server.run()
