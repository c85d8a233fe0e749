"""Mutual proof that both ends know a secret of the same cluster, without showing it. No I/O, no clock.

    dialer   -> acceptor   HELLO      version, tag of the cluster, nonce
    acceptor -> dialer     CHALLENGE  nonce
    dialer   -> acceptor   PROOF      a code for each secret it knows, and who it is
    acceptor -> dialer     WELCOME    a code under the secret that both know, and who it is; or REFUSED, and why

The codes are HMAC-SHA256 over a label, both nonces and all that was said. Nonces are fresh, so nothing of an earlier
connection fits; labels differ, so nothing fits that is sent back. A stranger who connects hears a nonce and no more.
Both sides then have two session keys, one a direction. There is no secrecy in this, that is what TLS is for.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Generator, Mapping, Sequence
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

import msgpack

from .frames import TransportError

VERSION: Final = 1
MAX_SECRETS: Final = 8
MAX_HELLO: Final = 512
"""Bytes of what an end says of itself."""
MAX_PLAIN: Final = 1024
"""Bytes of a frame of the handshake."""
NONCE_SIZE: Final = 32
MAGIC: Final = b"dref"

_hello = struct.Struct(f">4sB8s{NONCE_SIZE}s")
_challenge = struct.Struct(f">4sB{NONCE_SIZE}s")
_MAC_SIZE: Final = 32
_WELCOME: Final = b"\x00"
_REFUSED: Final = b"\x01"

Hello: TypeAlias = Mapping[str, str | int | bool]
"""What an end says of itself: small, and authenticated."""


class Reason(IntEnum):
    """Why a connection was refused; the values travel."""

    GARBAGE = 0
    VERSION = 1
    CLUSTER = 2
    SECRET = 3
    TIMEOUT = 4
    """It did not finish the handshake in time."""
    CROWDED = 5
    """Too many connections that had not finished it."""
    CLOSED = 6
    """It left in the middle of it."""
    FRAME = 7
    """Authenticated, and then sent what is no genuine frame."""


_MEANING: Final = {
    Reason.GARBAGE: "it does not speak the protocol of dref_django",
    Reason.VERSION: "it speaks another version of the protocol; run the same version of dref_django on all nodes",
    Reason.CLUSTER: "it belongs to another cluster; compare CLUSTER",
    Reason.SECRET: "it has another secret; compare SECRET (or SECRET_KEY)",
}


class HandshakeError(TransportError):
    """The other side is not one of us."""

    def __init__(self, reason: Reason, by: str = "") -> None:
        super().__init__(by + _MEANING.get(reason, reason.name.lower()))
        self.reason = reason


class Session(NamedTuple):
    peer: dict[str, str | int | bool]
    sending: bytes
    receiving: bytes
    last: bytes = b""
    """What is still to be sent in plain, before the first sealed frame."""


Exchange: TypeAlias = Generator[bytes, bytes, Session]
"""Yields what is to be sent (nothing: b""), is sent what came."""


class Secrets:
    """What the nodes of a cluster know. The first one counts for most; others are accepted during a rotation."""

    def __init__(self, secrets: Sequence[str], cluster: str) -> None:
        """No secrets at all: anybody who can reach the port is let in, for loopback only."""
        if len(secrets) > MAX_SECRETS:
            raise ValueError(f"at most {MAX_SECRETS} secrets are accepted at a time")
        label = b"dref_django raft\0" + cluster.encode()
        self.keys = tuple(hmac.digest(secret.encode(), label, "sha256") for secret in secrets or ("",))
        self.tag = hashlib.sha256(label).digest()[:8]
        """Tells clusters apart, so that a refusal can say which of the two is wrong."""

    def __repr__(self) -> str:
        return f"<Secrets: {len(self.keys)}>"


def dialer(secrets: Secrets, hello: Hello, nonce: bytes) -> Exchange:
    """The end that connects. Raises `HandshakeError`."""
    said = _packed(hello)
    opening = _hello.pack(MAGIC, VERSION, secrets.tag, nonce)
    challenge = yield opening
    if challenge[:1] == _REFUSED:
        raise _refused(challenge)
    if len(challenge) != _challenge.size or not challenge.startswith(MAGIC):
        raise HandshakeError(Reason.GARBAGE)
    transcript = opening + challenge + said
    codes = [_code(key, b"dialer", transcript) for key in secrets.keys]
    answer = yield bytes((len(codes),)) + b"".join(codes) + said
    if answer[:1] != _WELCOME:
        raise _refused(answer)
    code, heard = answer[1 : 1 + _MAC_SIZE], answer[1 + _MAC_SIZE :]
    for key in secrets.keys:
        if hmac.compare_digest(code, _code(key, b"acceptor", transcript + heard)):
            keys = _session_keys(key, transcript + heard)
            return Session(_unpacked(heard), keys[0], keys[1])
    raise HandshakeError(Reason.SECRET)


def acceptor(secrets: Secrets, hello: Hello, nonce: bytes) -> Exchange:
    """The end that was connected to. What it raises has a reason that the dialer may be told (see `refusal`)."""
    said = _packed(hello)
    opening = yield b""
    if len(opening) < 5 or not opening.startswith(MAGIC):
        raise HandshakeError(Reason.GARBAGE)
    if opening[4] != VERSION:
        raise HandshakeError(Reason.VERSION)
    if len(opening) != _hello.size:
        raise HandshakeError(Reason.GARBAGE)
    if _hello.unpack(opening)[2] != secrets.tag:
        raise HandshakeError(Reason.CLUSTER)
    challenge = _challenge.pack(MAGIC, VERSION, nonce)
    proof = yield challenge
    count = proof[0] if proof else 0
    end = 1 + count * _MAC_SIZE
    if not 1 <= count <= MAX_SECRETS or len(proof) < end:
        raise HandshakeError(Reason.GARBAGE)
    heard = proof[end:]
    codes = [proof[place : place + _MAC_SIZE] for place in range(1, end, _MAC_SIZE)]
    transcript = opening + challenge + heard
    for key in secrets.keys:
        expected = _code(key, b"dialer", transcript)
        if any(hmac.compare_digest(code, expected) for code in codes):
            keys = _session_keys(key, transcript + said)
            peer = _unpacked(heard)
            welcome = _WELCOME + _code(key, b"acceptor", transcript + said) + said
            return Session(peer, keys[1], keys[0], welcome)
    raise HandshakeError(Reason.SECRET)


def refusal(reason: Reason) -> bytes:
    """What a dialer is told before it is hung up on. It is not authenticated: good for a message, no more."""
    return _REFUSED + bytes((reason,))


def _refused(answer: bytes) -> HandshakeError:
    try:
        reason = Reason(answer[1]) if answer[:1] == _REFUSED and len(answer) == 2 else Reason.GARBAGE
    except ValueError:
        reason = Reason.GARBAGE
    return HandshakeError(reason, "refused by the other side: " if reason else "")


def _code(key: bytes, label: bytes, transcript: bytes) -> bytes:
    return hmac.digest(key, label + b"\0" + hashlib.sha256(transcript).digest(), "sha256")


def _session_keys(key: bytes, transcript: bytes) -> tuple[bytes, bytes]:
    """From the dialer to the acceptor, and back."""
    return _code(key, b"to the acceptor", transcript), _code(key, b"to the dialer", transcript)


def _packed(hello: Hello) -> bytes:
    packed: bytes = msgpack.packb(dict(hello))
    if len(packed) > MAX_HELLO:
        raise ValueError(f"a node says at most {MAX_HELLO} bytes of itself, not {len(packed)}: {hello}")
    return packed


def _unpacked(heard: bytes) -> dict[str, str | int | bool]:
    try:
        hello = msgpack.unpackb(heard[: MAX_HELLO + 1], max_array_len=0, max_ext_len=0)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException):
        raise HandshakeError(Reason.GARBAGE) from None
    if not isinstance(hello, dict) or not all(isinstance(key, str) for key in hello):
        raise HandshakeError(Reason.GARBAGE)
    if not all(isinstance(value, (str, int, bool)) for value in hello.values()):
        raise HandshakeError(Reason.GARBAGE)
    return hello
