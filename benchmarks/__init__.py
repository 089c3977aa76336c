"""Benchmarks: `peers` measures servekit beside other servers, `micro` the parts of its hot path. Not in the wheel."""
