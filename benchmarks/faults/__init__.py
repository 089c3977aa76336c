"""Faults that are injected for real, under load: how much fails, and for how long."""
