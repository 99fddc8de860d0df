"""The WebSocket opening handshake (RFC 6455, section 4), both sides; the frames are in frames.py."""

import re
from binascii import b2a_base64 as _base64
from collections.abc import Iterable

from connprobe import causes
from connprobe.errors import ProtocolViolation
from connprobe.wire.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Event,
    FrameReader,
    FrameViolation,
    close_payload,
    frame,
)
from connprobe.wire.head import ResponseHead, listed
from connprobe.wire.requests import Request

# hashlib loads OpenSSL: 3.9 MB of PSS in a process that has no other use for it. Some distributions
# build Python without _sha1.
try:
    from _sha1 import sha1  # type: ignore[import-not-found]  # unknown to typeshed
except ImportError:
    from functools import partial
    from hashlib import sha1

    sha1 = partial(sha1, usedforsecurity=False)

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "NONCE_BYTES",
    "PING",
    "PONG",
    "TEXT",
    "Event",
    "FrameReader",
    "FrameViolation",
    "accept_for",
    "accepts_for",
    "are_keys",
    "close_payload",
    "frame",
    "is_key",
    "is_upgrade",
    "key_from",
    "keys_from",
    "refusal",
    "upgrade_answer",
    "upgrade_headers",
]

_key = re.compile(rb"[A-Za-z0-9+/]{22}==").fullmatch
_keys = re.compile(rb"(?:[A-Za-z0-9+/]{22}==)*").fullmatch
NONCE_BYTES = 16
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MAX_REASON = 60  # characters of a peer's reason phrase that are repeated to the user


def key_from(nonce: bytes) -> bytes:
    """Sec-WebSocket-Key for 16 random bytes. Raises ValueError for another number."""
    if len(nonce) != NONCE_BYTES:
        raise ValueError("a nonce has 16 bytes")
    return _base64(nonce, newline=False)


def keys_from(random: bytes) -> list[bytes]:
    """One for each 16 of these."""
    starts = range(0, len(random), NONCE_BYTES)
    return [_base64(random[start : start + NONCE_BYTES], newline=False) for start in starts]


def accept_for(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept that answers `key`."""
    return accepts_for([key])[0]


def accepts_for(keys: Iterable[bytes]) -> list[bytes]:
    """The same of many: of 400,000 each would pay for a call."""
    return [_base64(sha1(key + _GUID).digest(), newline=False) for key in keys]


def upgrade_headers(key: bytes, host: str) -> list[tuple[str, str]]:
    """What a client sends, for `request_bytes`. `host`: with its port unless that is the default."""
    return [
        ("Host", host),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key.decode("ascii")),
        ("Sec-WebSocket-Version", "13"),
    ]


def refusal(
    head: ResponseHead, accept: bytes, offered_protocols: frozenset[str] = frozenset()
) -> tuple[str, str] | None:
    """Why `head` opens no WebSocket: (cause, detail), or None when it does (RFC 6455, section 4.1).

    The cause is REJECTED for any status but 101, with a detail like "503 Service Unavailable", and
    PROTOCOL for a 101 that is not valid. `accept`: from `accept_for`.
    """
    if head.status != 101:
        reason = _printable(head.reason)
        return causes.REJECTED, f"{head.status} {reason}" if reason else str(head.status)
    headers = head.headers
    if headers.get("upgrade", "").lower() != "websocket":
        return causes.PROTOCOL, "101 without Upgrade: websocket"
    if "upgrade" not in listed(headers.get("connection", "")):
        return causes.PROTOCOL, "101 without Connection: Upgrade"
    answer = headers.get("sec-websocket-accept")
    if answer is None:
        return causes.PROTOCOL, "101 without Sec-WebSocket-Accept"
    if answer != accept.decode("ascii"):
        return causes.PROTOCOL, "101 with a wrong Sec-WebSocket-Accept"
    if headers.get("sec-websocket-extensions"):
        return causes.PROTOCOL, "101 with an extension that was not offered"
    protocol = headers.get("sec-websocket-protocol")
    if protocol is not None and protocol not in offered_protocols:
        return causes.PROTOCOL, "101 with a subprotocol that was not offered"
    return None


def _printable(text: str) -> str:
    trimmed = text if len(text) <= _MAX_REASON else text[: _MAX_REASON - 3] + "..."
    return "".join(letter if " " <= letter <= "~" else "?" for letter in trimmed)


def are_keys(joined: bytes) -> bool:
    """Whether these are nothing but keys, one behind the other."""
    return _keys(joined) is not None


def is_key(key: bytes) -> bool:
    """Whether this is the base64 of 16 bytes."""
    return _key(key) is not None


def is_upgrade(request: Request) -> bool:
    """Whether the client asks for a WebSocket; whether it asks correctly, `upgrade_answer` says."""
    headers = request.headers
    return "websocket" in listed(headers.get("upgrade", "")) and "upgrade" in listed(
        headers.get("connection", "")
    )


def upgrade_answer(request: Request) -> bytes:
    """The 101 response, agreeing to no extension and no subprotocol.

    Raises ProtocolViolation for what section 4.2.1 lets a server refuse.
    """
    if not is_upgrade(request):
        raise ProtocolViolation("the request asks for no WebSocket")
    if request.method != "GET" or request.version_minor == 0:
        raise ProtocolViolation("a WebSocket needs GET and HTTP/1.1")
    if request.headers.get("sec-websocket-version") != "13":
        raise ProtocolViolation("the WebSocket version is not 13")
    key = request.headers.get("sec-websocket-key", "").encode("latin-1")
    if not is_key(key):
        raise ProtocolViolation("Sec-WebSocket-Key is not the base64 of 16 bytes")
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept_for(key) + b"\r\n\r\n"
    )
