"""Handles: endpoints called from Python, by the script that started the instance, and by handlers."""
