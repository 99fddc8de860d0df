"""Servers that break HTTP, close early, or try to exhaust whoever reads them."""

import tracemalloc
from itertools import pairwise

import pytest

from connprobe.errors import ProtocolViolation
from connprobe.wire.http import MAX_HEAD, ResponseReader


def read(data: bytes, points: list[int]) -> ResponseReader:
    reader = ResponseReader()
    edges = sorted({0, len(data), *(point for point in points if point < len(data))})
    for low, high in pairwise(edges):
        reader.feed(data[low:high])
    return reader


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (b"", "closed before an answer"),
        (b"HTTP/1.1 2", "closed inside the response head"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 23\r\n\r\nfour", "closed 19 bytes before the end of the body"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n",
            "closed inside a chunked body",
        ),
    ],
)
def test_a_close_says_where(wire: bytes, message: str) -> None:
    reader = read(wire, [])
    with pytest.raises(ProtocolViolation) as caught:
        reader.eof()
    assert str(caught.value) == message
    assert not reader.complete


@pytest.mark.parametrize(
    "wire",
    [
        b"S",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01",
        b"HTTP/2",
        b"HTTPS",
        b"\r\n",
        b"http/1.1 200 OK",
        b"\0" * 7,
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_garbage_is_known_at_its_first_byte(wire: bytes, bytewise: bool) -> None:
    with pytest.raises(ProtocolViolation, match="not HTTP/1"):
        read(wire, list(range(len(wire))) if bytewise else [])


@pytest.mark.parametrize("size", [1, 4099, 1 << 20])
def test_a_head_is_bounded(size: int) -> None:
    wire = b"HTTP/1.1 200 OK\r\nX: " + b"a" * (1 << 20 if size > 1 else MAX_HEAD)
    with pytest.raises(ProtocolViolation) as caught:
        read(wire, list(range(0, len(wire), size)))
    assert str(caught.value) == "response head exceeds 65536 bytes"


@pytest.mark.parametrize("size", [1, 65_536])
def test_the_largest_head_that_is_allowed(size: int) -> None:
    start = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: "
    wire = start + b"a" * (MAX_HEAD - len(start) - 4) + b"\r\n\r\n"
    assert read(wire, list(range(0, len(wire), size))).complete
    with pytest.raises(ProtocolViolation, match="exceeds"):
        read(wire.replace(b"X: ", b"X:  "), list(range(0, len(wire), size)))


def test_a_body_is_counted_and_not_stored() -> None:
    piece = bytes(65_536)
    for head in (b"Content-Length: 99999999999\r\n", b"Transfer-Encoding: chunked\r\n", b""):
        reader = read(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n", [])
        if b"chunked" in head:
            reader.feed(b"fffffffffff\r\n")
        tracemalloc.start()
        try:
            for _ in range(257):
                reader.feed(piece)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert reader.body_bytes == 257 * 65_536
        assert peak < 1 << 20
