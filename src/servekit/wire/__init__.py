"""Frames and links between servekit's processes: nothing about HTTP or endpoints."""
