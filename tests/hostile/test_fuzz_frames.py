"""Frames that were damaged: each is decoded or refused, and a link that brings one ends, and says why."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servekit.errors import LinkError
from servekit.interfaces import Request
from servekit.wire.control_frames import control_codec
from servekit.wire.data_frames import Answer, Bye, Call, Cancel, Chunk, Credit, End, Invoke, Load, Refusal, data_codec
from servekit.wire.frames import NO_FRAME, Frame, extended
from servekit.wire.handshake import Handshake
from servekit.wire.link import Link

TOKEN = b"t" * 32
MOST_BYTES = 20_000
REQUEST = Request("GET", "/", b"a=b", [(b"host", b"a")], b"body", "e", "/<int:n>", "id", "::1", {"n": extended(2**80)})
FRAMES = [
    Call(1, 1000, REQUEST),
    Answer(1, 200, b"a: b\r\n", b"body", 3, 70),
    Cancel(1),
    Refusal(1, "draining"),
    Bye(True),
    Chunk(1, b"piece"),
    End(1, False, 2, 3),
    Credit(1, 2**40),
    Load(7),
    Invoke(1, "e", b"pickled", chain=("a", "b")),
]
ENCODED = [data_codec().encode(frame) for frame in FRAMES]
CODECS = {"data": data_codec(), "control": control_codec()}
DEEP = b"\x91" * 6000 + b"\xc0"


def with_argument(packed: bytes) -> bytes:
    """A call with this as the value of a part of its route, which may be of any type."""
    fields = [*msgspec.msgpack.decode(msgspec.msgpack.encode(REQUEST))[:9], {"n": msgspec.Raw(packed)}]
    return msgspec.msgpack.encode([1, 1, 1000, fields])


FOUND = [
    # More levels than Python can call itself were no error of decoding, and the link ended without a word of them.
    with_argument(DEEP),
    ENCODED[2][:-1] + DEEP,
    b"\x9f\x05\xc3" + DEEP * 13,
    with_argument(msgspec.msgpack.encode(msgspec.msgpack.Ext(1, b"short"))),
    with_argument(msgspec.msgpack.encode(msgspec.msgpack.Ext(9, b""))),
    DEEP,
    b"",
    b"\xc1",
    b"\xdd\xff\xff\xff\xff",
]
plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=20) | st.text()
anything = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner), max_leaves=12
)
arrays = st.builds(lambda tag, rest: msgspec.msgpack.encode([tag, *rest]), st.integers(0, 50), st.lists(anything))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = draw(st.sampled_from(ENCODED) | arrays | st.binary(max_size=60))
    for _ in range(draw(st.integers(0, 3))):
        at, size = draw(st.integers(0, len(data))), draw(st.integers(0, 4))
        data = data[:at] + draw(st.binary(max_size=4)) + data[at + size :]
    return data


def check_decode(payload: bytes) -> None:
    for codec in CODECS.values():
        try:
            frame = codec.decode(payload)
        except NO_FRAME:
            continue
        assert isinstance(frame, Frame)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(damaged())
def test_a_frame_is_decoded_or_refused(payload: bytes) -> None:
    check_decode(payload)


@pytest.mark.parametrize("payload", FOUND + ENCODED, ids=range(len(FOUND + ENCODED)))
def test_what_was_found(payload: bytes) -> None:
    check_decode(payload)
    check_link(packed(ENCODED[0], payload, ENCODED[2]), [])


class Owner:
    def __init__(self) -> None:
        self.frames: list[str] = []
        self.lost: list[Exception | None] = []

    def link_opened(self, link: Link) -> None: ...

    def frame_received(self, link: Link, frame: Any) -> None:
        self.frames.append(repr(frame))

    def frames_done(self, link: Link) -> None: ...

    def link_writable(self, link: Link) -> None: ...

    def link_lost(self, link: Link, error: Exception | None) -> None:
        self.lost.append(error)


def packed(*payloads: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(payload)) + payload for payload in payloads)


async def receive(data: bytes, cuts: list[int], *, shaken: bool = True) -> tuple[list[str], str]:
    """Send ``data`` on a new link to an `Owner`: the frames that the owner got, and why the link was lost."""
    owner, loop = Owner(), asyncio.get_running_loop()
    handshake = Handshake(TOKEN, b"here", dialing=False)
    links: list[Link] = []

    def accept() -> Link:
        links.append(Link(owner, data_codec(), handshake, max_frame_bytes=MOST_BYTES))
        return links[0]

    server = await loop.create_server(accept, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    if shaken:
        peer = Handshake(TOKEN, b"there", dialing=True)
        challenge = await reader.readexactly(struct.unpack(">I", await reader.readexactly(4))[0])
        proof = peer.receive(challenge)
        assert proof is not None
        writer.write(packed(proof))
        await reader.readexactly(struct.unpack(">I", await reader.readexactly(4))[0])
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for i, j in itertools.pairwise(at):
        writer.write(data[i:j])
        await asyncio.sleep(0)
    with contextlib.suppress(OSError):  # The link may have ended already.
        writer.write_eof()
    await links[0].wait_lost()
    writer.close()
    server.close()
    (error,) = owner.lost or [None]
    assert error is None or isinstance(error, LinkError), error
    return owner.frames, str(error)


def check_link(data: bytes, cuts: list[int], *, shaken: bool = True) -> None:
    failures: list[Any] = []

    async def check() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        whole = await receive(data, [], shaken=shaken)
        assert await receive(data, cuts or list(range(0, len(data), 1 + len(data) // 20)), shaken=shaken) == whole

    asyncio.run(asyncio.wait_for(check(), 20))
    assert not failures


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(damaged(), max_size=4), st.binary(max_size=6), st.lists(st.integers(0, 500), min_size=1, max_size=4))
def test_a_link_gives_the_same_frames_however_they_come(payloads: list[bytes], rest: bytes, cuts: list[int]) -> None:
    check_link(packed(*payloads) + rest, cuts)


STRANGE_HELLOS = [
    packed(msgspec.msgpack.encode([8, b"n" * 16, b"m" * 32, b"hello"])[:-6] + b"\xc4\x01x" + DEEP),
    packed(b"\x95\x08\xc4\x01n\xc4\x01m\xc4\x01h" + DEEP),
    packed(b"\x95\x08\xc4\x01n\xc4\x01m\xc4\x01h" + b"\xd4\x09x"),
    packed(DEEP),
    packed(b""),
]


@pytest.mark.parametrize("data", STRANGE_HELLOS, ids=range(len(STRANGE_HELLOS)))
def test_a_stranger_ends_no_link_but_its_own(data: bytes) -> None:
    check_link(data, [], shaken=False)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(damaged(), max_size=2), st.binary(max_size=20))
def test_noise_before_the_handshake(payloads: list[bytes], rest: bytes) -> None:
    check_link(packed(*payloads) + rest, [1, 3, 5], shaken=False)
