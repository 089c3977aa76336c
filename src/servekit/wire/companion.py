"""Companions: connections that carry nothing, and are lost when the other machine is.

That a peer on another machine is gone cannot be told from the link on which calls go: a peer that runs a handler says
nothing for minutes, one that is slow to read would be reset by a user timeout, and while frames are on their way TCP
sends no keep-alive probes, but tries again for a quarter of an hour. So a process has a second connection to each peer
on another machine. On that one nothing is ever on its way: its probes go out every second, and the peer's kernel
acknowledges them, whatever the peer does (`keep_alive` in `servekit.wire.network`). When the companion is lost for want
of acknowledgements, so is the link.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Sequence

from servekit.wire.control import ControlLinkOwner
from servekit.wire.data_links import DataLinks
from servekit.wire.link import Link
from servekit.wire.network import LONGEST_REDIAL_S, Listener, dial, listen

_log = logging.getLogger("servekit.link")

PATIENCE_S = 86400.0
"""How long a companion may wait for the peer's part of the handshake: C code may hold the GIL there. The kernels watch
over the connection meanwhile."""
_UNREACHABLE = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN})


class Silent(ControlLinkOwner):
    """The owner of either end: there is nothing to say."""


async def listen_for_companions(address: str, links: DataLinks) -> Listener:
    """Take companions on ``address``, on a loop on which nothing blocks."""
    return await listen(address, lambda: links.new(Silent(), dialing=False), peer_reads=True)


async def keep_companion(links: DataLinks, addresses: Callable[[], Sequence[str]], lost: Callable[[], None]) -> None:
    """Hold a companion to one of ``addresses()``, until this is cancelled; at once without any.

    ``lost`` is called whenever the peer's machine is found to be silent. A companion that never came up says nothing of
    the machine: a firewall may be in the way of it alone.
    """
    came_up = said = False
    while addresses():
        made: list[Link] = []
        error: Exception | None

        def new_link(made: list[Link] = made) -> Link:
            made.append(links.new(Silent(), dialing=True, hello_timeout_s=PATIENCE_S))
            return made[-1]

        try:
            link = await dial(addresses(), new_link, peer_reads=True)
            came_up, said = True, False
            await link.wait_lost()
            error = link.error
        except OSError as problem:
            error = problem
        finally:
            for link in made:
                link.abort()
        if came_up and is_silence(error):
            if not said:
                _log.warning("the machine of the peer at %s is silent: %s", ", ".join(addresses()), error)
                said = True
            lost()
        await asyncio.sleep(LONGEST_REDIAL_S)


def is_silence(error: Exception | None) -> bool:
    """Whether a connection that ended by ``error`` did so because nothing came back from the other machine."""
    return isinstance(error, TimeoutError) or (isinstance(error, OSError) and error.errno in _UNREACHABLE)
