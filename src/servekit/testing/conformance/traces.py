"""What can be seen of processes and of a secret, in ``/proc``."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

from servekit.processes import ProcessIdentity, identify, is_alive


def marked(mark: str) -> Iterator[ProcessIdentity]:
    """Every living process that has ``mark`` in its environment, but this one."""
    for pid in _pids():
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        identity = identify(pid)
        if pid != os.getpid() and mark.encode() in environ and identity is not None and is_alive(identity):
            yield identity


def descendants(of: int) -> set[ProcessIdentity]:
    """Every process below ``of``, zombies included."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(pid)
    found: set[ProcessIdentity] = set()
    todo = [of]
    while todo:
        for child in children.get(todo.pop(), []):
            identity = identify(child)
            if identity is not None:
                found.add(identity)
                todo.append(child)
    return found


def describe(processes: set[ProcessIdentity]) -> str:
    """``pid 17 (python -m servekit.worker)``, one by one."""
    return ", ".join(f"pid {process.pid} ({_title(process.pid)})" for process in sorted(processes))


def spellings(secret: bytes) -> set[bytes]:
    """How ``secret`` looks as it is, in Python's source, in hexadecimal, and inside a base64 text, at every offset."""
    found = {secret, repr(secret)[2:-1].encode(), secret.hex().encode(), secret.hex().upper().encode()}
    for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
        for before in range(3):
            whole = (before + len(secret)) // 3 * 3 - before
            text = encode(bytes(before) + secret[:whole])
            found.add(text[4 if before else 0 :])  # The first group mixes with what stands before.
    return found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _title(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "ended meanwhile"
    return text[:200] or "a zombie: it was not waited for"
