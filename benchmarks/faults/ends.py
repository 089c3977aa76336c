"""A standing instance is told to end under load: what was accepted is answered, and then connecting is refused."""

from __future__ import annotations

import signal

from benchmarks.faults.row import Row
from benchmarks.faults.scene import gone, kill, refused, scene, watched


def told_to_end(runtime: str) -> Row:
    with scene(runtime, standing=True, ingress_workers=2) as at:
        processes = {at.keeper, at.controller(), *at.ingress(), *at.replicas().values()}
        with watched(at, timeout_s=10.0) as watch:
            with watch.fault():
                kill([at.keeper], signal.SIGTERM)
            watch.until_whole(lambda: all(gone(pid) for pid in processes))
        row = watch.row("SIGTERM of a standing instance", refused, "connections that are refused, once it takes none")
        answered = [one.ended_s for one in watch.load.outcomes if not one.kind]
        row.notes.append(f"served for {max(answered) - watch.began_s:.1f} s yet: drain_delay_s, and what was in flight")
        left = "nothing is left of it" if row.whole_s is not None else "some of its processes are left"
        row.notes.append(f"{left}; the time in the last column is until then")
        return row


FAULTS = {"end": told_to_end}
