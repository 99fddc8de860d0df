"""Frames against wsproto, an independent implementation, in both roles."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode

from connprobe.wire.frames import apply_mask
from connprobe.wire.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Event,
    FrameReader,
    close_payload,
    frame,
)

FEW = settings(max_examples=100, deadline=None)
MASK = b"\x12\x34\x56\x78"

cuts = st.lists(st.integers(0, 3000), max_size=12)
data = st.one_of(st.binary(max_size=200), st.integers(120, 300).map(bytes), st.just(b"x" * 65_537))
# A message: its fragments, and the control frames (opcode, payload) that come before each of them.
controls = st.lists(st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125)), max_size=2)
message = st.tuples(st.booleans(), st.lists(st.tuples(controls, data), min_size=1, max_size=4))
messages = st.lists(message, max_size=4)
Messages = list[tuple[bool, list[tuple[list[tuple[int, bytes]], bytes]]]]


def feed(reader: FrameReader, wire: bytes, points: list[int]) -> list[Event]:
    edges = sorted({0, len(wire), *(point for point in points if point < len(wire))})
    events = []
    for low, high in pairwise(edges):
        events += reader.feed(wire[low:high])
    return events


def as_text(payload: bytes) -> bytes:
    return payload.decode("latin-1").encode()


@FEW
@given(messages, st.booleans(), st.booleans(), cuts)
def test_reads_what_wsproto_sends(sent: Messages, from_client: bool, kept: bool, points: list[int]) -> None:
    peer = FrameProtocol(client=from_client, extensions=[])
    wire, expected = b"", []
    for is_text, fragments in sent:
        whole = b""
        for index, (around, payload) in enumerate(fragments):
            for opcode, content in around:
                wire += bytes(peer.ping(content) if opcode == PING else peer.pong(content))
                expected.append(Event(opcode, content, len(content), None))
            fin = index == len(fragments) - 1
            text = as_text(payload)
            whole += text if is_text else payload
            wire += bytes(peer.send_data(text.decode() if is_text else payload, fin=fin))
        expected.append(Event(TEXT if is_text else BINARY, whole if kept else b"", len(whole), None))
    wire += bytes(peer.close(1001, "going away"))
    expected.append(Event(CLOSE, b"\x03\xe9going away", 12, 1001))
    reader = FrameReader(from_client=from_client, keep=1 << 20 if kept else None)
    assert feed(reader, wire, points) == expected
    assert reader.at_boundary


@FEW
@given(messages, st.booleans(), st.binary(min_size=4, max_size=4), cuts)
def test_wsproto_reads_what_is_sent(sent: Messages, from_client: bool, key: bytes, points: list[int]) -> None:
    mask = key if from_client else None
    wire = b""
    expected: list[tuple[int, bytes]] = []
    for is_text, fragments in sent:
        whole = b""
        for index, (around, payload) in enumerate(fragments):
            for opcode, content in around:
                wire += frame(opcode, content, mask)
                expected.append((opcode, content))
            payload = as_text(payload) if is_text else payload
            whole += payload
            first = TEXT if is_text else BINARY
            wire += frame(CONTINUATION if index else first, payload, mask, index == len(fragments) - 1)
        expected.append((TEXT if is_text else BINARY, whole))
    wire += frame(CLOSE, close_payload(3001, "bye"), mask)
    peer = FrameProtocol(client=not from_client, extensions=[])
    received: list[tuple[int, bytes]] = []
    whole = b""
    edges = sorted({0, len(wire), *(point for point in points if point < len(wire))})
    for low, high in pairwise(edges):
        peer.receive_bytes(wire[low:high])
        for got in peer.received_frames():
            if isinstance(got.payload, tuple):
                assert got.payload == (3001, "bye")
                continue
            piece = got.payload.encode() if isinstance(got.payload, str) else bytes(got.payload)
            if got.opcode in (Opcode.PING, Opcode.PONG):
                received.append((int(got.opcode), piece))
                continue
            whole += piece
            if got.message_finished:
                received.append((int(got.opcode), whole))
                whole = b""
    assert received == expected


@given(st.binary(max_size=70), st.binary(min_size=4, max_size=4))
@settings(max_examples=50, deadline=None)
def test_a_mask_is_a_repeated_xor(payload: bytes, mask: bytes) -> None:
    assert apply_mask(payload, mask) == bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 65_537])
@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("keep", [None, 65_537])
def test_sizes_at_the_edges(size: int, mask: bytes | None, keep: int | None) -> None:
    payload = b"\xff" * size
    reader = FrameReader(from_client=mask is not None, keep=keep)
    kept = payload if keep else b""
    assert feed(reader, frame(BINARY, payload, mask), [1, 2, 3, 4, 9, 10, 13, 14]) == [
        Event(BINARY, kept, size, None)
    ]


@pytest.mark.parametrize("from_client", [False, True])
def test_every_boundary_is_known(from_client: bool) -> None:
    mask = MASK if from_client else None
    pieces = [
        frame(TEXT, b"one", mask, fin=False),
        frame(PING, b"", mask),
        frame(CONTINUATION, b"", mask),
        frame(PONG, b"x", mask),
    ]
    wire = b"".join(pieces)
    ends = {0, len(wire) - len(pieces[3]), len(wire)}
    reader = FrameReader(from_client=from_client, keep=None)
    for position in range(len(wire)):
        assert reader.at_boundary is (position in ends), position
        reader.feed(wire[position : position + 1])
    assert reader.at_boundary


def test_behind_a_close_all_is_dropped() -> None:
    reader = FrameReader(from_client=False, keep=None)
    wire = frame(CLOSE, close_payload(1000))
    assert reader.feed(wire + b"\xff\xff garbage") == [Event(CLOSE, b"\x03\xe8", 2, 1000)]
    assert reader.feed(b"\xff\xff more") == []
    assert reader.at_boundary


def test_a_close_needs_no_code() -> None:
    reader = FrameReader(from_client=False, keep=None)
    assert reader.feed(frame(CLOSE)) == [Event(CLOSE, b"", 0, None)]


@pytest.mark.parametrize(
    ("opcode", "payload", "mask", "fin"),
    [
        (3, b"", None, True),
        (PING, bytes(126), None, True),
        (PING, b"", None, False),
        (TEXT, b"", b"abc", True),
    ],
)
def test_nothing_invalid_is_sent(opcode: int, payload: bytes, mask: bytes | None, fin: bool) -> None:
    with pytest.raises(ValueError, match=r"reserved|control|mask"):
        frame(opcode, payload, mask, fin)


def test_a_close_reason_has_its_limit() -> None:
    assert len(close_payload(1000, "x" * 123)) == 125
    with pytest.raises(ValueError, match="123 bytes"):
        close_payload(1000, "x" * 124)
