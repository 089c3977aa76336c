"""The dashboard: a page on the admin listener, its sessions, and the stream of what has changed.

It knows the admin API's operations alone: whatever the page shows or does, a program can, by the same names.
"""
