from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import pytest
from benchmarks.fixed_rate import Client, outcome

ANSWERS = [(0.0, 0.1, "200"), (1.0, 1.5, "200"), (1.1, 4.0, "200"), (1.2, 1.21, "503"), (1.3, 9.0, "none")]


def test_what_counts_is_what_was_to_leave_after_the_warm_up_and_came_in_time() -> None:
    found = outcome(ANSWERS, after=1.0, timeout_s=2.0, behind_s=0.01)

    assert (found.sent, found.in_time) == (4, 1)
    assert found.statuses == {"200": 2, "503": 1, "none": 1}
    assert round(found.refused_p99_ms) == round(found.behind_ms) == 10


@pytest.mark.parametrize(("body", "chunked"), [("", False), ('{"id": 1}', False), ("", True)])
def test_the_client_sends_all_and_has_an_answer_to_each(body: str, chunked: bool) -> None:
    numbers = count()

    class Sometimes(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200 if next(numbers) % 2 else 503)
            self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "2")))
            self.end_headers()
            self.wfile.write(b"2\r\nok\r\n0\r\n\r\n" if chunked else b"ok")

        def do_POST(self) -> None:
            assert self.rfile.read(int(self.headers["Content-Length"])).decode() == body
            self.do_GET()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Sometimes) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever).start()
        client = Client(server.server_port, "/", body)
        client.run(rate=100.0, duration_s=0.2, timeout_s=30.0)
        client.close()
        server.shutdown()
    assert sorted(status for _, _, status in client.answers) == ["200"] * 10 + ["503"] * 10


def test_a_server_that_takes_no_more_leaves_requests_without_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    client = Client(port, "/")
    client.run(rate=100.0, duration_s=0.1, timeout_s=1.0)
    client.close()
    assert [status for _, _, status in client.answers] == ["none"] * 10


def test_a_connection_that_is_closed_while_nobody_uses_it_is_let_go_of() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_once_each() -> None:
            for _ in range(4):
                connection, _ = server.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        answers = threading.Thread(target=answer_once_each)
        answers.start()
        client = Client(server.getsockname()[1], "/")
        client.run(rate=4.0, duration_s=1.0, timeout_s=30.0)
        client.close()
        answers.join()
    assert [status for _, _, status in client.answers] == ["200"] * 4
