"""An ingress worker that never serves."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from servekit.config import HttpLimits
from servekit.ingress.worker import IngressWorker
from servekit.wire.bootstrap import IngressBootstrap, WorkerBootstrap


def test_a_worker_without_a_controller_closes_its_listening_socket(tmp_path: Path) -> None:
    with socket.socket() as listening:
        http = IngressBootstrap(os.dup(listening.fileno()), HttpLimits(), [], [])
        nowhere = [f"unix:{tmp_path}/control.sock"]
        bootstrap = WorkerBootstrap("ingress", "i1", b"token", nowhere, str(tmp_path), 0.0, http=http)

        async def run() -> None:
            await IngressWorker(bootstrap, own_process=False).run()

        asyncio.run(run())
        assert http.listen_fd is not None
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(http.listen_fd)
