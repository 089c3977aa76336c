"""Links: the same behaviour over Unix sockets and TCP."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.waiting import until_async

from servekit.errors import AuthenticationError, InvalidInputError, LinkError
from servekit.interfaces import Request
from servekit.wire.data_frames import Answer, Bye, Call, Cancel, data_codec
from servekit.wire.frames import extended
from servekit.wire.handshake import Handshake
from servekit.wire.link import Link
from servekit.wire.network import bind_unix, dial, listen

TOKEN = b"t" * 32


class Owner:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.frames: list[Any] = []
        self.batches: list[int] = []
        self.lost: list[Exception | None] = []

    def link_opened(self, link: Link) -> None:
        self.links.append(link)

    def frame_received(self, link: Link, frame: Any) -> None:
        self.frames.append(frame)

    def frames_done(self, link: Link) -> None:
        self.batches.append(len(self.frames))

    def link_writable(self, link: Link) -> None: ...

    def link_lost(self, link: Link, error: Exception | None) -> None:
        self.lost.append(error)

    async def until(self, condition: Callable[[], bool]) -> None:
        await until_async(condition)


def acceptor(owner: Owner, token: bytes = TOKEN, max_frame_bytes: int = 10_000_000) -> Callable[[], Link]:
    return lambda: Link(owner, data_codec(), Handshake(token, b"here", dialing=False), max_frame_bytes=max_frame_bytes)


def dialer(owner: Owner, token: bytes = TOKEN) -> Callable[[], Link]:
    return lambda: Link(owner, data_codec(), Handshake(token, b"there", dialing=True), max_frame_bytes=10_000_000)


@pytest.fixture(params=["unix:{}/s", "tcp:127.0.0.1:0"])
def address(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    return str(request.param).format(tmp_path)


def call(number: int, body: bytes = b"") -> Call:
    return Call(number, 1000, Request("GET", "/x", b"", [(b"host", b"h")], body, "e", "/x", "id", ""))


def test_frames_arrive_whole_and_in_order(address: str) -> None:
    async def main() -> None:
        far, near = Owner(), Owner()
        listener = await listen(address, acceptor(far))
        link = await dial([listener.address], dialer(near))
        assert link.peer_hello == b"here"
        await far.until(lambda: bool(far.links))
        assert far.links[0].peer_hello == b"there"
        sent = [call(n, bytes(n * 997)) for n in range(200)]
        for frame in sent:
            link.send(frame)
        await far.until(lambda: len(far.frames) == 200)
        assert far.frames == sent
        for n in range(3):
            far.links[0].send(Answer(n, 200, b"", b"x", 0, 1))
        await near.until(lambda: len(near.frames) == 3)
        assert [n for n in near.batches if n] == [3], "frames of one turn must leave by one write"
        link.close()
        await far.until(lambda: bool(far.lost))
        await near.until(lambda: bool(near.lost))
        listener.close()

    asyncio.run(main())


def test_a_wrong_token_is_refused_on_both_sides(address: str) -> None:
    async def main() -> None:
        far, near = Owner(), Owner()
        listener = await listen(address, acceptor(far))
        with pytest.raises((AuthenticationError, LinkError)):
            await dial([listener.address], dialer(near, b"w" * 32))
        assert not far.links
        assert not near.links
        listener.close()

    asyncio.run(main())


def test_an_acceptor_without_the_token_is_refused_by_the_dialer() -> None:
    near, false = Handshake(TOKEN, b"", dialing=True), Handshake(b"f" * 32, b"", dialing=False)
    challenge = false.first()
    assert challenge is not None
    proof = near.receive(challenge)
    assert proof is not None
    assert TOKEN not in proof
    with pytest.raises(AuthenticationError, match="token"):
        false.receive(proof)


def test_a_proof_cannot_be_played_again() -> None:
    def shake(dialing: Handshake, accepting: Handshake) -> bytes:
        challenge = accepting.first()
        assert challenge is not None
        proof = dialing.receive(challenge)
        assert proof is not None
        return proof

    overheard = shake(Handshake(TOKEN, b"", dialing=True), Handshake(TOKEN, b"", dialing=False))
    fresh = Handshake(TOKEN, b"", dialing=False)
    fresh.first()
    with pytest.raises(AuthenticationError):
        fresh.receive(overheard)


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff\xff\xff", b"\0\0\0\2\x91\xc1"])
def test_garbage_before_the_handshake_ends_the_connection(tmp_path: Any, garbage: bytes) -> None:
    async def main() -> None:
        far = Owner()
        listener = await listen("tcp:127.0.0.1:0", acceptor(far))
        host, _, port = listener.address.removeprefix("tcp:").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(garbage)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asyncio.wait_for(reader.readexactly(100_000), 5)
        assert not far.links
        writer.close()
        listener.close()

    asyncio.run(main())


def test_a_frame_over_the_cap_ends_the_link() -> None:
    async def main() -> None:
        far, near = Owner(), Owner()
        listener = await listen("tcp:127.0.0.1:0", acceptor(far, max_frame_bytes=1000))
        link = await dial([listener.address], dialer(near))
        await far.until(lambda: bool(far.links))
        link.send(call(1, bytes(2000)))
        await far.until(lambda: bool(far.lost))
        assert "longer" in str(far.lost[0])
        assert not far.frames
        listener.close()

    asyncio.run(main())


def test_what_was_never_sent_is_known() -> None:
    async def main() -> None:
        far, near = Owner(), Owner()
        listener = await listen("tcp:127.0.0.1:0", acceptor(far))
        link = await dial([listener.address], dialer(near))
        link.send(call(1))
        link.flush()
        link.send(call(2))
        link.abort()
        await near.until(lambda: bool(near.lost))
        assert [frame.id for frame in link.unsent()] == [2]
        listener.close()

    asyncio.run(main())


def test_a_full_link_says_so_and_recovers() -> None:
    async def main() -> None:
        far, near = Owner(), Owner()
        server = await listen("tcp:127.0.0.1:0", acceptor(far))
        link = await dial([server.address], dialer(near))
        for n in range(8):
            link.send(call(n, bytes(1_000_000)))
        link.flush()
        assert not link.writable
        await far.until(lambda: len(far.frames) == 8)
        await near.until(lambda: link.writable)
        server.close()
        link.close()

    asyncio.run(main())


@pytest.mark.parametrize("address", ["unix:{}/s", "tcp:127.0.0.1:0"])
@pytest.mark.parametrize("full", [False, True], ids=["with room", "full"])
def test_a_link_of_a_peer_that_has_ended_is_lost_though_somebody_holds_its_socket(
    tmp_path: Any, address: str, full: bool
) -> None:
    async def main() -> None:
        far, near = Owner(), Owner()
        server = await listen(address.format(tmp_path), acceptor(far))
        link = await dial([server.address], dialer(near))
        await far.until(lambda: bool(far.links))
        peer = far.links[0]._transport
        peer.pause_reading()
        with socket.socket(fileno=os.dup(peer.get_extra_info("socket").fileno())):
            if full:
                link.send(call(1, bytes(8_000_000)))
                link.flush()
                assert not link.writable
            for number in range(10):  # More than is read at once, and not more than a socket takes.
                far.links[0].send(Answer(number, 200, b"", bytes(10_000), 0, 0))
            far.links[0].flush()
            assert peer.get_write_buffer_size() == 0
            peer.abort()
            link.peer_ended()
            link.peer_ended()
            await near.until(lambda: bool(near.lost))
            assert [frame.id for frame in near.frames] == list(range(10))
        server.close()

    asyncio.run(main())


def test_dialling_takes_the_first_address_that_answers(tmp_path: Any) -> None:
    async def main() -> None:
        far, near = Owner(), Owner()
        listener = await listen("tcp:127.0.0.1:0", acceptor(far))
        link = await dial([f"unix:{tmp_path}/absent", listener.address], dialer(near))
        assert link.is_open
        with pytest.raises(OSError, match="No such file"):
            await dial([f"unix:{tmp_path}/absent"], dialer(near))
        link.close()
        listener.close()

    asyncio.run(main())


def test_unix_sockets_are_private_and_their_paths_short(tmp_path: Any) -> None:
    sock = bind_unix(f"{tmp_path}/s")
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
    sock.close()
    with pytest.raises(InvalidInputError, match="shorter"):
        bind_unix(f"{tmp_path}/" + "x" * 100)


@given(
    st.lists(
        st.one_of(
            st.builds(Cancel, st.integers(0, 2**62)),
            st.just(Bye()),
            st.builds(
                Answer,
                st.integers(0, 2**62),
                st.integers(100, 599),
                st.binary(),
                st.binary(),
                st.integers(0, 9),
                st.integers(0, 9),
            ),
        ),
        max_size=8,
    ),
    st.integers(1, 40),
)
def test_however_the_bytes_are_cut_the_frames_are_the_same(frames: list[Any], step: int) -> None:
    async def main() -> None:
        owner = Owner()
        link = acceptor(owner)()
        link._handshake, link.is_open = None, True
        codec = data_codec()
        stream = b"".join(len(p).to_bytes(4, "big") + p for p in map(codec.encode, frames))
        for at in range(0, len(stream), step):
            link.data_received(stream[at : at + step])
        assert owner.frames == frames

    asyncio.run(main())


@given(
    st.dictionaries(
        st.text(max_size=5), st.one_of(st.uuids(), st.text(), st.integers(-9, 9), st.floats(allow_nan=False))
    )
)
def test_what_a_route_matched_keeps_its_types(view_args: dict[str, Any]) -> None:
    frame = call(1)
    frame.request.view_args = {key: extended(value) for key, value in view_args.items()}
    codec = data_codec()
    assert codec.decode(codec.encode(frame)).request.view_args == view_args
