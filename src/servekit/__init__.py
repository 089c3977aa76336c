"""Serve Python functions and classes over HTTP."""
