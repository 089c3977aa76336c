"""Load on one server: many requests by ``wrk``, or large bodies one after another by ``http.client``."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import Call

THREADS = 1
"""One of wrk's threads sends more than any of the servers answers, and leaves the other cores to them."""
SPARE_S = 15.0
"""What wrk may take beyond its duration."""


class LoadError(Exception):
    """What was measured is void; the message says why."""


@dataclass(frozen=True)
class Load:
    """What wrk found: answers a second, and how long they took."""

    rate: float
    p50_ms: float
    p99_ms: float


def check_wrk() -> str:
    """The version of wrk. Raises `LoadError` where there is none."""
    if shutil.which("wrk") is None:
        raise LoadError("wrk is not installed: apt-get install wrk, or build it from https://github.com/wg/wrk")
    done = subprocess.run(["wrk", "-v"], capture_output=True, text=True, timeout=10, check=False)
    return done.stdout.partition("Copyright")[0].strip()


def wrk(port: int, call: Call, connections: int, duration_s: float, scratch: Path) -> Load:
    """Send ``call`` on ``connections`` kept-alive connections. Raises `LoadError` when one request failed."""
    script = scratch / "call.lua"
    script.write_text(lua(call))
    duration = max(1, round(duration_s))  # wrk knows whole seconds
    command = ["wrk", f"-t{THREADS}", f"-c{connections}", f"-d{duration}s", "--timeout", "10s", "--latency"]
    command += ["-s", str(script), f"http://127.0.0.1:{port}{call.path}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=duration + SPARE_S, check=False)
    except subprocess.TimeoutExpired:
        raise LoadError(f"wrk did not end within {duration + SPARE_S:.0f} s") from None
    if done.returncode:
        raise LoadError(f"wrk: {done.stderr.strip()}")
    return parse(done.stdout)


def lua(call: Call) -> str:
    """The script that has wrk send ``call``: set once, so that no Lua runs per request."""
    # A JSON text of ASCII is a Lua string too, but for its \\u escapes, which these bodies have not.
    lines = [
        f'wrk.method = "{call.method}"',
        f"wrk.body = {json.dumps(call.body.decode('ascii'))}" if call.body else "",
    ]
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in call.headers.items()]
    return "\n".join(lines) + "\n"


UNITS_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


def parse(output: str) -> Load:
    """What ``wrk --latency`` printed. Raises `LoadError` where a request failed or nothing was answered."""
    failures = [
        f"{int(count)} {kind}"
        for kind, count in re.findall(r"(connect|read|write|timeout) (\d+)", output)
        + [
            ("answers that are no 2xx or 3xx", count)
            for count in re.findall(r"Non-2xx or 3xx responses: (\d+)", output)
        ]
        if int(count)
    ]
    if failures:
        raise LoadError(f"failures: {', '.join(failures)}")
    rate = re.search(r"^Requests/sec: +([\d.]+)$", output, re.MULTILINE)
    latencies = {
        percent: float(number) * UNITS_MS[unit]
        for percent, number, unit in re.findall(r"^ +(\d+)% +([\d.]+)(us|ms|s|m) *$", output, re.MULTILINE)
    }
    if rate is None or float(rate[1]) == 0 or not {"50", "99"} <= latencies.keys():
        raise LoadError(f"wrk reported no answers: {' '.join(output.split())[:200]}")
    return Load(float(rate[1]), latencies["50"], latencies["99"])


def answer_to(port: int, call: Call) -> bytes:
    """The body of the answer to one request. Raises `LoadError`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        return _ask(connection, call)
    except (OSError, http.client.HTTPException) as error:
        raise LoadError(repr(error)) from error
    finally:
        connection.close()


def transfer_ms(port: int, call: Call, size: int, count: int) -> float:
    """The median time of ``count`` requests with a large body, up or down, on one connection. Raises `LoadError`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    times = []
    try:
        for _ in range(count):
            began = time.perf_counter()
            body = _ask(connection, call)
            times.append(time.perf_counter() - began)
            if not call.path.startswith("/upload") and len(body) != size:
                raise LoadError(f"{len(body)} bytes came, not {size}")
    except (OSError, http.client.HTTPException) as error:
        raise LoadError(repr(error)) from error
    finally:
        connection.close()
    return statistics.median(times) * 1000


def _ask(connection: http.client.HTTPConnection, call: Call) -> bytes:
    connection.request(call.method, call.path, call.body, call.headers)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status >= 300:
        raise LoadError(f"status {answer.status}: {body[:100]!r}")
    return body
