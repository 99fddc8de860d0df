"""One property of every reader: damaged input ends in ProtocolViolation or not at all, and never
depends on how the bytes were split."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connprobe.errors import ProtocolViolation
from connprobe.wire.http import RequestReader, ResponseReader
from connprobe.wire.websocket import FrameReader, close_payload, frame

VALID = {
    "response": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;x=y\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nSum: 1\r\n\r\nrest"
    ),
    "request": (
        b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
        b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        b"GET /c HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\nrest"
    ),
    "frames": (
        frame(1, "é".encode(), b"mask", fin=False)
        + frame(9, b"ping", b"MASK")
        + frame(0, b"x" * 200, b"mAsK")
        + frame(2, b"", b"abcd")
        + frame(8, close_payload(1000, "bye"), b"0123")
    ),
}


def response(pieces: list[bytes]) -> object:
    reader = ResponseReader()
    for piece in pieces:
        reader.feed(piece)
    return reader.head, reader.complete, reader.excess, reader.body_bytes, reader.keep_alive, reader.delimited


def request(pieces: list[bytes]) -> object:
    reader = RequestReader(100)
    return [got for piece in pieces for got in reader.feed(piece)], reader.take_rest()


def frames(pieces: list[bytes]) -> object:
    reader = FrameReader(from_client=True, keep=300)
    return [got for piece in pieces for got in reader.feed(piece)], reader.at_boundary


def outcome(read: Callable[[list[bytes]], object], pieces: list[bytes]) -> object:
    try:
        return read(pieces)
    except ProtocolViolation as violation:
        return str(violation)


@pytest.mark.parametrize("read", [response, request, frames])
@settings(max_examples=300, deadline=None)
@given(
    damage=st.lists(
        st.tuples(
            st.integers(0, 300),
            st.integers(0, 2),
            st.sampled_from([b"", b"\n", b"\r\n", b" ", b"\0", b"\xff", b"5", b":"]),
        ),
        max_size=3,
    ),
    points=st.lists(st.integers(1, 300), max_size=8),
)
def test_no_split_changes_the_outcome(
    read: Callable[[list[bytes]], object], damage: list[tuple[int, int, bytes]], points: list[int]
) -> None:
    wire = VALID[read.__name__]
    for at, removed, added in damage:
        wire = wire[:at] + added + wire[at + removed :]
    edges = sorted({0, len(wire), *(point for point in points if point < len(wire))})
    whole = outcome(read, [wire])
    assert outcome(read, [wire[low:high] for low, high in pairwise(edges)]) == whole
    assert outcome(read, [wire[at : at + 1] for at in range(len(wire))]) == whole


def test_the_undamaged_inputs_are_read_to_their_end() -> None:
    assert response([VALID["response"]]) == (
        (200, "OK", {"a": "b", "transfer-encoding": "chunked"}),
        True,
        b"rest",
        21,
        True,
        True,
    )
    requests, rest = RequestReader(100).feed(VALID["request"]), b"rest"
    assert [got.path for got in requests] == ["/a", "/b", "/c"]
    assert request([VALID["request"]]) == (requests, rest)
    assert outcome(frames, [VALID["frames"]]) == (
        FrameReader(from_client=True, keep=300).feed(VALID["frames"]),
        True,
    )
