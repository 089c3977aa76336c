"""Benchmarks: `peers` side by side, `growth` of cost, `routing` quality, `micro` of the hot path. Not in the wheel."""
