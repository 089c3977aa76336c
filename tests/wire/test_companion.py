"""Companions, over loopback. That a machine which is cut off is silent, `tests/hosts/test_cut_off.py` shows."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from tests.support.waiting import until_async

from servekit.errors import LinkError
from servekit.wire import companion as module
from servekit.wire.companion import is_silence, keep_companion, listen_for_companions
from servekit.wire.data_links import DataLinks
from servekit.wire.network import connect, listen

TOKEN = bytes(32)
TIMED_OUT = OSError(errno.ETIMEDOUT, "timed out")


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH])
def test_what_says_that_nothing_came_back(number: int) -> None:
    assert is_silence(OSError(number, ""))


@pytest.mark.parametrize("error", [None, LinkError("closed"), ConnectionResetError(), ConnectionRefusedError()])
def test_what_says_that_the_peer_has_ended_or_is_another(error: Exception | None) -> None:
    assert not is_silence(error)


def keeping(addresses: list[str], lost: Callable[[], None]) -> asyncio.Task[None]:
    return asyncio.ensure_future(keep_companion(DataLinks(TOKEN, "i1"), lambda: addresses, lost))


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Tried:
    """In the place of `dial`: gives one after another of what the test says, an error or how an open link is lost."""

    def __init__(self, *outcomes: tuple[str, Exception | None]) -> None:
        self.left: Iterator[tuple[str, Exception | None]] = iter(outcomes)
        self.over = asyncio.Event()

    async def dial(self, *_: Any, **__: Any) -> Any:
        kind, self.error = next(self.left, ("over", None))
        if kind == "over":
            self.over.set()
            await asyncio.Event().wait()
        if kind == "fails":
            assert self.error is not None
            raise self.error
        return self

    async def wait_lost(self) -> None: ...


@pytest.mark.parametrize(
    ("outcomes", "told"),
    [
        ([("opens", TIMED_OUT)], 1),
        ([("opens", TIMED_OUT), ("fails", TIMED_OUT), ("opens", TIMED_OUT)], 3),
        ([("opens", LinkError("closed")), ("fails", ConnectionRefusedError())], 0),
        ([("fails", TIMED_OUT), ("fails", TIMED_OUT)], 0),  # A firewall may be in its way alone.
    ],
)
def test_silence_is_told_once_it_is_known_that_a_companion_can_be_had(
    monkeypatch: pytest.MonkeyPatch, outcomes: list[tuple[str, Exception | None]], told: int
) -> None:
    monkeypatch.setattr(module, "LONGEST_REDIAL_S", 0.001)

    async def test() -> None:
        tried, lost = Tried(*outcomes), []
        monkeypatch.setattr(module, "dial", tried.dial)
        task = keeping(["tcp:h:1"], lambda: lost.append(1))
        await asyncio.wait_for(tried.over.wait(), 60)
        assert len(lost) == told
        await end(task)

    asyncio.run(test())


def test_on_one_machine_there_is_none() -> None:
    asyncio.run(keep_companion(DataLinks(TOKEN, "i1"), tuple, lambda: None))


def options(sock: Any) -> tuple[int, int]:
    """Whether it asks the other end's kernel, and after how long what is sent in vain ends it, in ms."""
    return (
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
    )


def test_a_companion_is_watched_at_both_ends_and_let_go_of_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    made = module.Silent.link_opened
    monkeypatch.setattr(module.Silent, "link_opened", lambda owner, link: (taken.append(link), made(owner, link))[1])

    async def test() -> None:
        listener = await listen_for_companions("tcp:127.0.0.1:0", DataLinks(TOKEN, "r1"))
        task = keeping([listener.address], lambda: None)
        await until_async(lambda: len(taken) == 2)
        for link in taken:
            assert options(link._transport.get_extra_info("socket")) == (1, 4000)
        await end(task)
        await asyncio.wait_for(asyncio.gather(*(link.wait_lost() for link in taken)), 60)
        listener.close()

    asyncio.run(test())


def test_a_link_for_calls_has_no_user_timeout_for_its_peer_may_be_slow_to_read() -> None:
    run_pair(lambda server, client: [options(server), options(client)] == [(1, 0), (1, 0)])


def run_pair(right: Callable[[Any, Any], bool]) -> None:
    async def test() -> None:
        ends: list[Any] = []

        class End(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                ends.append(transport)

        listener = await listen("tcp:127.0.0.1:0", End)
        await connect(listener.address, End)
        await until_async(lambda: len(ends) == 2)
        assert right(*(transport.get_extra_info("socket") for transport in ends))
        for transport in ends:
            transport.abort()
        listener.close()

    work: Coroutine[Any, Any, None] = test()
    asyncio.run(work)
