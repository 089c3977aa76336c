"""The links that carry calls: ingress to replica, and handle to ingress."""

from __future__ import annotations

from servekit.config import HELLO_TIMEOUT_S
from servekit.wire.data_frames import DATA_FRAME_BYTES, data_codec
from servekit.wire.handshake import Handshake
from servekit.wire.link import Link, LinkOwner
from servekit.wire.polling import BusyPoll


class DataLinks:
    """Makes the data links of one process."""

    def __init__(self, token: bytes, name: str, polling: BusyPoll | None = None) -> None:
        """``name``: the name of this process at the other ends."""
        self._token = token
        self._hello = name.encode()
        self._polling = polling
        self._codec = data_codec()

    def new(self, owner: LinkOwner, *, dialing: bool, hello_timeout_s: float = HELLO_TIMEOUT_S) -> Link:
        handshake = Handshake(self._token, self._hello, dialing=dialing)
        return Link(
            owner,
            self._codec,
            handshake,
            max_frame_bytes=DATA_FRAME_BYTES,
            polling=self._polling,
            hello_timeout_s=hello_timeout_s,
        )
