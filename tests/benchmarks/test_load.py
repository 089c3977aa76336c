from __future__ import annotations

import pytest
from benchmarks.load import Load, LoadError, lua, parse
from benchmarks.servers import Call

OUTPUT = """\
Running 2s test @ http://127.0.0.1:41849/sleep
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   678.01ms  518.15ms   2.00s    73.91%
    Req/Sec    36.42     29.85    90.00     66.67%
  Latency Distribution
     50%  893.00us
     75%    1.10ms
     90%   12.44ms
     99%    2.00s\x20
  69 requests in 2.00s, 9.77KB read
Requests/sec:  12034.50
Transfer/sec:      4.88KB
"""


def test_rate_and_percentiles_are_read_in_every_unit() -> None:
    assert parse(OUTPUT) == Load(rate=12034.5, p50_ms=0.893, p99_ms=2000.0)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("  Non-2xx or 3xx responses: 7\n", "7 answers that are no 2xx or 3xx"),
        ("  Socket errors: connect 0, read 3, write 0, timeout 1\n", "3 read, 1 timeout"),
    ],
)
def test_one_failed_request_voids_the_figure(line: str, words: str) -> None:
    with pytest.raises(LoadError, match=words):
        parse(OUTPUT.replace("Requests/sec", line + "Requests/sec"))


def test_socket_errors_of_zero_are_none() -> None:
    parse(OUTPUT.replace("Requests/sec", "  Socket errors: connect 0, read 0, write 0, timeout 0\nRequests/sec"))


def test_no_answers_are_no_figure() -> None:
    with pytest.raises(LoadError, match="no answers"):
        parse(OUTPUT.replace("12034.50", "0.00"))


def test_the_script_sets_what_is_sent() -> None:
    script = lua(Call("POST", "/json", b'{"a": "b"}', {"Content-Type": "application/json"}))

    assert script.splitlines() == [
        'wrk.method = "POST"',
        r'wrk.body = "{\"a\": \"b\"}"',
        'wrk.headers["Content-Type"] = "application/json"',
    ]
