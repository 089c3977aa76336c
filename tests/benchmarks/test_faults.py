from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from benchmarks.faults import capacity, outcomes, peers
from benchmarks.faults.__main__ import FAULTS
from benchmarks.faults.load import Load
from benchmarks.faults.outcomes import UNANSWERED, WRONG, Counts, Outcome
from benchmarks.faults.row import Row, from_json, not_run, table, to_json
from benchmarks.faults.scene import Watch, on_its_connections, posts_inside, posts_meanwhile
from benchmarks.faults.section import keep, kept, text
from benchmarks.fixed_rate import Outcome as Rated
from hypothesis import given
from hypothesis import strategies as st


def outcome(sent_s: float, ended_s: float, kind: str = "", method: str = "GET") -> Outcome:
    return Outcome("", method, sent_s, ended_s, kind, 0)


SOME = [outcome(0, 1), outcome(1, 2, "502", "POST"), outcome(1.5, 6, "502", "POST"), outcome(6, 6.5), outcome(7, 8)]


def test_failures_are_counted_by_method_and_kind() -> None:
    found = outcomes.counts([*SOME, outcome(8, 9, WRONG)])
    assert (found.sent, found.answered, found.wrong) == (6, 3, 1)
    assert str(found) == "3 of 6 failed: 2 POST 502, 1 GET wrong"


def test_a_gap_reaches_from_one_success_to_the_next_whatever_failed_in_it() -> None:
    assert outcomes.longest_gap_s(SOME, 0, 8) == 5.5
    assert outcomes.longest_gap_s([], 1, 4) == 3, "where nothing was answered it is all of the time"


def test_the_first_success_is_of_a_request_that_was_sent_after_the_moment() -> None:
    assert outcomes.first_success_s(SOME, 0.5) == 6
    assert outcomes.first_success_s(SOME, 7.5) is None


def test_recovery_ends_with_the_last_failure_or_the_last_slow_answer() -> None:
    assert outcomes.recovery_s(SOME, 1, slow_s=10) == 5
    assert outcomes.recovery_s(SOME, 6, slow_s=10) == 0
    assert outcomes.recovery_s(SOME[:3], 1, slow_s=10) is None, "nothing was answered since"
    assert outcomes.recovery_s([outcome(0, 4), outcome(5, 6)], 1, slow_s=3) == 3


def test_what_is_under_way_has_been_sent_and_has_not_ended() -> None:
    assert outcomes.under_way(SOME, 1.6) == SOME[1:3]


TIMES = st.floats(0, 100)


@given(
    st.lists(
        st.builds(lambda a, b, kind: outcome(min(a, b), max(a, b), kind), TIMES, TIMES, st.sampled_from(["", "502"]))
    )
)
def test_after_the_recovery_nothing_fails(some: list[Outcome]) -> None:
    took_s = outcomes.recovery_s(some, 50, slow_s=200)
    if took_s is not None:
        assert not any(one.kind and one.ended_s > 50 + took_s + 1e-9 for one in some)


class Answers(BaseHTTPRequestHandler):
    """As `Echo`, but for what the server's ``trouble`` says of each request by its id."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        self.answer(self.path.partition("id=")[2])

    def do_POST(self) -> None:
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["id"])

    def answer(self, name: str) -> None:
        trouble = self.server.trouble.get(name)
        if trouble == "cut":
            self.close_connection = True
            return
        if trouble == "held":
            self.server.over.wait(60)
        body = json.dumps({"id": "another" if trouble == "another's" else name, "pid": 7}).encode()
        self.send_response(503 if trouble == "503" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        found: Any = server
        found.trouble, found.over = {}, threading.Event()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield found
        found.over.set()
        server.shutdown()
        thread.join()


def load_on(server: Any, **options: Any) -> Load:
    return Load(f"http://127.0.0.1:{server.server_port}", gets=1, posts=1, **options)


def test_every_answer_is_checked(server: Any) -> None:
    server.trouble = {"G0-1": "another's", "P1-1": "503", "G0-3": "cut", "P1-4": "another's"}
    with load_on(server) as load:
        load.wait(lambda: len(load.failures) == 4)
        load.more(10)
    assert {one.id: one.kind for one in load.failures} == {
        "G0-1": WRONG,
        "P1-1": "503",
        "G0-3": "IncompleteReadError",
        "P1-4": WRONG,
    }
    assert {one.by for one in load.outcomes if not one.kind} == {7}
    assert len({one.id for one in load.outcomes}) == load.counts.sent


def test_what_is_never_answered_is_told_so(server: Any) -> None:
    server.trouble = {"G0-2": "held"}
    with load_on(server, grace_s=0.1) as load:
        load.wait(lambda: sum(one.method == "POST" for one in load.outcomes) > 5)
    assert [(one.id, one.kind) for one in load.failures] == [("G0-2", UNANSWERED)]
    server.trouble = {"G0-2": "held"}
    with load_on(server, timeout_s=0.2) as load:
        load.wait(lambda: load.failures)
    assert [(one.id, one.kind) for one in load.failures] == [("G0-2", "TimeoutError")]


def test_a_server_that_is_not_there_is_no_wait_without_end(server: Any) -> None:
    server.trouble = {"G0-0": "cut", "P1-0": "cut"}
    with load_on(server) as load:
        load.more(2)
    assert {one.kind for one in load.failures} == {"IncompleteReadError"}


ROW = Row("kill -9 of it", "4 replicas", 1234, 3, "3 POST 502", 2, "POSTs inside", 0.5, None, 12.3, True, ["a note"])


def test_a_row_has_what_failed_what_was_expected_and_what_was_not() -> None:
    assert ROW.more == 1
    head, line, *below = table([ROW]).splitlines()
    assert head.split("  ")[0] == "fault"
    assert line.split() == ["kill", "-9", "of", "it", "1,234", "3", "2", "1", "0.50", "s", "never", "12", "s"]
    assert [text.strip() for text in below] == ["4 replicas", "failed: 3 POST 502", "expected: POSTs inside", "a note"]
    assert from_json(to_json(ROW)) == ROW


def test_a_fault_that_cannot_be_had_here_is_a_row_with_the_reason() -> None:
    assert "not run here: by root alone" in table([not_run("a machine dies", "by root alone")])


@dataclass
class Fake:
    """A load that has ended, and a scene."""

    outcomes: list[Outcome]
    setup: str = ""
    began_s: float = 0.0
    ended_s: float = 100.0

    @property
    def counts(self) -> Counts:
        return outcomes.counts(self.outcomes)

    @property
    def failures(self) -> list[Outcome]:
        return outcomes.failures(self.outcomes)


def watch(*some: Outcome, spans: list[tuple[float, float]], whole_s: float | None = None) -> Watch:
    fake: Any = Fake(list(some))
    return Watch(fake, fake, spans, whole_s=whole_s)


def test_what_may_fail_of_a_kill_was_sent_before_it_was_done_and_had_not_ended() -> None:
    post, get = outcome(9, 11, "502", "POST"), outcome(9, 11, "502")
    seen = watch(outcome(1, 2), post, get, outcome(12, 13, "502", "POST"), outcome(14, 15), spans=[(10, 10.1)])
    row = seen.row("kill", posts_inside, "why")
    assert (row.sent, row.failed, row.expected, row.more) == (5, 3, 1, 2)
    assert seen.row("kill", on_its_connections, "").expected == 0
    assert row.well_s == 3


def test_until_all_is_there_again_more_may_fail_and_nothing_after_it() -> None:
    posts = [outcome(9 + at, 9.5 + at, "502", "POST") for at in range(6)]
    assert watch(outcome(1, 2), *posts, spans=[(10, 10)], whole_s=2).row("", posts_meanwhile, "").expected == 3


def test_of_several_faults_the_one_that_took_longest_counts() -> None:
    some = [outcome(1, 2), outcome(10, 11, "502"), outcome(12, 13), outcome(20, 24, "502"), outcome(25, 26)]
    assert watch(*some, spans=[(10, 10), (20, 20)]).row("", posts_inside, "").well_s == 4


def test_every_fault_has_a_name_and_ray_has_some_of_its_own() -> None:
    assert set(FAULTS) == {"process", "ray"}
    assert {"replica", "hang", "poison", "oom"} <= FAULTS["process"].keys()
    assert {"gcs", "raylet", "node-cut-off"} <= FAULTS["ray"].keys() - FAULTS["process"].keys()
    assert {peer.name for peer in peers.peers()} == set(peers.NAMES) == set(peers.OPTIONS)


def test_rows_of_earlier_runs_stay_beside_new_ones(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    keep(file, "process", {"a": [ROW], "b": [ROW]})
    keep(file, "ray", {"a": [not_run("a", "no Ray")]})
    rows = kept(file, "process")
    assert rows == {"a": [ROW], "b": [ROW]}
    rows["b"] = [replace(ROW, fault="kill -9 of another", commit="abc", busy_cores=1.5)]
    keep(file, "process", rows)
    shown = text("this", {"b": "", "a": "", "c": ""}, kept(file, "process"))
    assert shown.index("kill -9 of another") < shown.index("kill -9 of it")
    assert "0.0 to 1.5 of them" in shown
    assert kept(file, "ray")["a"][0].not_run == "no Ray"
    assert kept(None, "ray") == kept(tmp_path / "none", "ray") == {}


def test_the_peers_of_a_fault_have_a_table_of_their_own() -> None:
    shown = text("this", {"a": "a kill", "b": "a hang"}, {"a": [ROW], "b": [ROW, ROW]})
    assert shown.count("longest gap") == 2
    assert shown.index("a kill\n\nfault") < shown.index("a hang\n\nfault")


def test_of_ten_times_the_capacity_what_is_beyond_it_may_be_refused() -> None:
    peak = Rated(100, 100, {"200": 100})
    over = Rated(1000, 90, {"200": 95, "503": 905}, 0.5, 3.0, 80.0)
    seen = capacity.row("ten times", "", peak, over)
    assert (seen.sent, seen.failed, seen.expected, seen.more) == (1000, 910, 900, 10)
    assert seen.notes[0].startswith("goodput 0.90 of that at the capacity; answers: 95 200, 905 503")
    assert "80 ms" in seen.notes[2]
    assert table([seen]).splitlines()[1].split()[-3:] == ["-", "-", "-"]
