"""Routing quality, where one replica is slow: ``python -m benchmarks.routing``."""
