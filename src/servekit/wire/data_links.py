"""The links that calls go on: ingress to replica, and handle to ingress."""

from __future__ import annotations

from servekit.wire.data_frames import DATA_FRAME_BYTES, data_codec
from servekit.wire.handshake import Handshake
from servekit.wire.link import Link, LinkOwner
from servekit.wire.polling import BusyPoll


class DataLinks:
    """Makes those of one process."""

    def __init__(self, token: bytes, name: str, polling: BusyPoll | None = None) -> None:
        """``name``: what this process is called at the other ends."""
        self._token = token
        self._hello = name.encode()
        self._polling = polling
        self._codec = data_codec()

    def new(self, owner: LinkOwner, *, dialing: bool) -> Link:
        handshake = Handshake(self._token, self._hello, dialing=dialing)
        return Link(owner, self._codec, handshake, max_frame_bytes=DATA_FRAME_BYTES, polling=self._polling)
