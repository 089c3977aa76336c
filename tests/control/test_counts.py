"""What ingress workers counted, added up."""

from __future__ import annotations

from servekit.control.counts import Counts
from servekit.wire.control_frames import RequestCount


def test_what_was_deleted_is_forgotten() -> None:
    counts = Counts()
    counts.add(
        [RequestCount("e", "b", 200, 3, 0.3), RequestCount("old", "gone", 200, 1, 0.1)],
        {"e": 1, "old": 2},
        {"e": 4, "old": 3},
    )
    counts.keep_only({"e"}, {"b"})
    stat = counts.stat()
    assert {name: entry["requests"] for name, entry in stat["endpoints"].items()} == {"e": 3}
    assert stat["endpoints"]["e"]["failovers"] == 1
    assert stat["endpoints"]["e"]["deadly"] == 4
    assert list(stat["backends"]) == ["b"]
    counts.add([RequestCount("old", "b", 500, 1, 0.1)], {}, {})
    assert counts.stat()["endpoints"]["old"]["failovers"] == 0
    assert counts.stat()["endpoints"]["old"]["deadly"] == 0
