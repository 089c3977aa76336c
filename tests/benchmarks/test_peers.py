from __future__ import annotations

import argparse

import pytest
from benchmarks.cases import CASES, FULL, QUICK
from benchmarks.command_line import effort_of
from benchmarks.peers import named_cases, named_peers, schedule, setups
from benchmarks.servers import DOCUMENT, PEERS, Peer


def test_a_name_stands_for_all_peers_that_begin_with_it() -> None:
    assert [peer.name for peer in named_peers("servekit,mosec")] == ["servekit-process", "servekit-ray", "mosec"]


def test_unknown_names_are_refused_and_the_known_ones_listed() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="no peer 'nonesuch'; there are servekit-process"):
        named_peers("mosec,nonesuch")
    with pytest.raises(argparse.ArgumentTypeError, match="no case 'nonesuch'; there are start"):
        named_cases("hello,nonesuch")


def test_cases_that_need_the_same_server_share_it() -> None:
    assert setups(["start", "memory", "hello", "sleep"]) == [("hello", 1), ("sleep", 4)]


def test_every_other_repeat_has_the_peers_the_other_way_round() -> None:
    first, *_, last = PEERS
    order = [(step, peer.name) for step, (peer, _, _) in schedule([first, last], [("hello", 1)], 2)]

    assert order == [("1/2", first.name), ("1/2", last.name), ("2/2", last.name), ("2/2", first.name)]


def test_a_peer_is_not_started_for_a_handler_that_it_has_not() -> None:
    planned = schedule(named_peers("nginx"), setups(list(CASES)), 1)
    assert [handler for _, (_, handler, _) in planned] == ["hello", "upload", "download"]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_peer_pins_what_it_installs_and_has_a_call_for_each_handler(peer: Peer) -> None:
    assert all("==" in name or name == "-e" or name.endswith("[ray]") for name in peer.requirements)
    assert all(peer.call(handler, 10).path.startswith(f"/{handler}") for handler in peer.handlers)
    assert "9999" in " ".join(peer.command("python", "hello", 9999, 1))


def test_repeats_and_budget_are_what_was_asked_for_or_the_default() -> None:
    given = argparse.Namespace(quick=True, repeats=3, budget=900.0)
    nothing = argparse.Namespace(quick=False, repeats=None, budget=None)

    effort = effort_of(given, FULL, QUICK)
    assert (effort.repeats, effort.budget_s) == (3, 900.0)
    assert effort.seconds == QUICK.seconds
    assert effort_of(nothing, FULL, QUICK) == FULL


def test_a_stream_is_asked_for_in_a_query_or_in_json() -> None:
    ours, mosec = named_peers("servekit-process,mosec")

    assert ours.call("astream", 10, 2.5).path == "/astream?chunks=10&pause_ms=2.5"
    assert mosec.call("stream", 10, 2.5).body == b'{"chunks": 10, "pause_ms": 2.5}'
    assert mosec.call("batch").body == b"{}"


def test_handles_are_asked_for_where_there_are_some() -> None:
    assert [peer.name for peer in PEERS if "compose" in peer.handlers] == [
        "servekit-process",
        "servekit-ray",
        "rayserve",
    ]
    assert PEERS[0].call("compose", 200, at_once=64).path == "/compose?calls=200&at_once=64"


def test_the_document_is_10_kb() -> None:
    assert 10_000 <= len(DOCUMENT) <= 10_500
