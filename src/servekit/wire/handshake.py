"""The handshake of a link, in which both ends prove that they hold the instance's token, without sending it.

A challenge and a response, both ways (HMAC-SHA256; the shape of ISO/IEC 9798-4, three passes): the acceptor sends a
nonce; the dialer answers with its own, its hello, and a MAC over all; the acceptor answers with its hello and a MAC
over the nonces the other way round. A hello is bytes that the owner of the link understands.
"""

from __future__ import annotations

import hmac
import os

import msgspec

from servekit.errors import AuthenticationError, LinkError
from servekit.wire.frames import NO_FRAME, PROTOCOL_VERSION

HANDSHAKE_BYTES = 16 * 1024
"""The largest message of a handshake: the peer may be anyone."""


class _Challenge(msgspec.Struct, array_like=True):
    protocol: int
    nonce: bytes


class _Proof(msgspec.Struct, array_like=True):
    protocol: int
    nonce: bytes
    mac: bytes
    hello: bytes


class _Welcome(msgspec.Struct, array_like=True):
    mac: bytes
    hello: bytes


class Handshake:
    """One end of a handshake, without any I/O: feed it the peer's messages, send what it answers."""

    def __init__(self, token: bytes, hello: bytes, *, dialing: bool) -> None:
        self._token = token
        self._hello = hello
        self._dialing = dialing
        self._nonce = os.urandom(16)
        self._peer_nonce = b""
        self.peer_hello: bytes | None = None
        """The peer's hello, once the peer is known; None before."""

    def first(self) -> bytes | None:
        """The message to send on connecting; None where the peer speaks first."""
        if self._dialing:
            return None
        return msgspec.msgpack.encode(_Challenge(PROTOCOL_VERSION, self._nonce))

    def receive(self, message: bytes | memoryview) -> bytes | None:
        """Take the peer's message, give the answer. Raises `AuthenticationError` or `LinkError`."""
        try:
            if not self._dialing:
                return self._check_proof(msgspec.msgpack.decode(message, type=_Proof))
            if not self._peer_nonce:
                return self._prove(msgspec.msgpack.decode(message, type=_Challenge))
            self._check_welcome(msgspec.msgpack.decode(message, type=_Welcome))
            return None
        except NO_FRAME as error:
            raise LinkError(f"the peer does not speak servekit's link protocol: {error}") from None

    def _prove(self, challenge: _Challenge) -> bytes:
        _check_protocol(challenge.protocol)
        self._peer_nonce = challenge.nonce
        mac = self._mac(b"dial", challenge.nonce, self._nonce, self._hello)
        return msgspec.msgpack.encode(_Proof(PROTOCOL_VERSION, self._nonce, mac, self._hello))

    def _check_proof(self, proof: _Proof) -> bytes:
        _check_protocol(proof.protocol)
        self._check(proof.mac, self._mac(b"dial", self._nonce, proof.nonce, proof.hello))
        self.peer_hello = proof.hello
        mac = self._mac(b"accept", proof.nonce, self._nonce, self._hello)
        return msgspec.msgpack.encode(_Welcome(mac, self._hello))

    def _check_welcome(self, welcome: _Welcome) -> None:
        self._check(welcome.mac, self._mac(b"accept", self._nonce, self._peer_nonce, welcome.hello))
        self.peer_hello = welcome.hello

    def _mac(self, *parts: bytes) -> bytes:
        # Each part comes behind its length, so that no two lists of parts give the same text.
        text = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.digest(self._token, text, "sha256")

    def _check(self, given: bytes, right: bytes) -> None:
        if not hmac.compare_digest(given, right):
            raise AuthenticationError("the peer does not hold this instance's token; the link was refused")


def _check_protocol(version: int) -> None:
    if version != PROTOCOL_VERSION:
        raise LinkError(
            f"the peer speaks link protocol {version}, this side {PROTOCOL_VERSION}: "
            "install the same version of servekit on both"
        )
