"""mosec: one worker class, in as many processes as there are replicas."""

import sys
import time

import mosec
from chunks import chunks
from faulty import TIMEOUT_S, echo


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


class Batch(mosec.Worker):
    def forward(self, data):
        time.sleep(0.01)
        return ["hello"] * len(data)


class Stream(mosec.SSEWorker):
    def forward(self, data):
        for chunk in chunks(data["chunks"], data["pause_ms"] / 1000):
            self.send_stream_event(chunk.decode())
        return ""


class Echo(mosec.Worker):
    def forward(self, data):
        return echo(data)


OPTIONS = {"Batch": {"max_batch_size": 16, "max_wait_time": 10}}

if __name__ == "__main__":
    handler, port, replicas = sys.argv[1:]
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", port, "--log-level", "warning"]  # mosec reads its options here
    timeout_ms = round(1000 * TIMEOUT_S) if handler == "echo" else 60_000
    sys.argv += ["--max-request-size", str(64 * 1024 * 1024), "--timeout", str(timeout_ms)]
    server = mosec.Server()
    name = handler.capitalize()
    server.append_worker(globals()[name], num=int(replicas), route=f"/{handler}", **OPTIONS.get(name, {}))
    server.run()
