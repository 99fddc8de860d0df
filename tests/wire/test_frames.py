"""Frames against wsproto, an independent implementation, in both roles, and against hostile peers."""

import pickle
import tracemalloc
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
    FrameViolation,
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


PART = b"\x01\x01a"  # an unfinished text message


@pytest.mark.parametrize(
    ("wire", "code", "message"),
    [
        (b"HTTP/1.1 400", 1002, "reserved bits are set, and no extension was agreed on"),
        (b"\xc1\x00", 1002, "reserved bits are set, and no extension was agreed on"),
        (b"\x83\x00", 1002, "opcode 3 is reserved"),
        (b"\x8b\x00", 1002, "opcode 11 is reserved"),
        (b"\x81\x80", 1002, "masked frame from a server"),
        (b"\x09\x00", 1002, "fragmented control frame"),
        (b"\x89\x7e", 1002, "control frame over 125 bytes"),
        (b"\x89\x7f", 1002, "control frame over 125 bytes"),
        (b"\x80\x00", 1002, "continuation of no message"),
        (PART + b"\x81\x01b", 1002, "new message inside a fragmented one"),
        (b"\x82\x7e\x00\x7d", 1002, "the length is not in its shortest form"),
        (b"\x82\x7f" + (65_535).to_bytes(8, "big"), 1002, "the length is not in its shortest form"),
        (b"\x82\x7f" + b"\xff" * 8, 1002, "the length has its top bit set"),
        (b"\x82\x7f" + (1 << 62).to_bytes(8, "big"), 1009, "message exceeds 1000 bytes"),
        (b"\x82\x7e\x03\xe9", 1009, "message exceeds 1000 bytes"),
        (PART + b"\x80\x7e\x03\xe8", 1009, "message exceeds 1000 bytes"),
        (b"\x81\x01\xff", 1007, "text message is not UTF-8"),
        (b"\x01\x01\xc3\x80\x01\x28", 1007, "text message is not UTF-8"),
        (b"\x88\x01\x03", 1002, "malformed close code"),
        (b"\x88\x03\x03\xe8\xff", 1007, "close reason is not UTF-8"),
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_a_broken_frame_is_named(wire: bytes, code: int, message: str, bytewise: bool) -> None:
    reader = FrameReader(from_client=False, keep=1000)
    with pytest.raises(FrameViolation) as caught:
        feed(reader, wire, list(range(len(wire))) if bytewise else [])
    assert (str(caught.value), caught.value.code) == (message, code)


def test_a_character_may_be_cut_by_a_fragment() -> None:
    reader = FrameReader(from_client=False, keep=10)
    wire = frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b"\xa9")
    assert reader.feed(wire) == [Event(TEXT, "é".encode(), 2, None)]


def test_a_client_has_to_mask() -> None:
    with pytest.raises(FrameViolation, match="unmasked frame from a client"):
        FrameReader(from_client=True, keep=None).feed(b"\x81\x00")


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535])
def test_close_codes_that_never_travel(code: int) -> None:
    with pytest.raises(FrameViolation, match="malformed close code"):
        FrameReader(from_client=False, keep=None).feed(frame(CLOSE, code.to_bytes(2, "big")))
    with pytest.raises(ValueError, match="close code"):
        close_payload(code)


def test_a_violation_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(FrameViolation("message exceeds 7 bytes", 1009)))
    assert (str(copy), copy.code) == ("message exceeds 7 bytes", 1009)


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


@pytest.mark.parametrize("from_client", [False, True])
def test_a_frame_without_end_costs_no_memory(from_client: bool) -> None:
    reader = FrameReader(from_client=from_client, keep=None)
    reader.feed(
        bytes((0x82, 0xFF if from_client else 0x7F))
        + (1 << 62).to_bytes(8, "big")
        + (MASK if from_client else b"")
    )
    piece = bytes(65_536)
    tracemalloc.start()
    try:
        for _ in range(1024):
            assert reader.feed(piece) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert not reader.at_boundary


def test_fragments_without_end_cost_no_memory() -> None:
    reader = FrameReader(from_client=False, keep=None)
    reader.feed(PART)
    piece = frame(CONTINUATION, b"x" * 60, fin=False) * 1009
    tracemalloc.start()
    try:
        for _ in range(23):
            assert reader.feed(piece) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert reader.feed(frame(CONTINUATION)) == [Event(TEXT, b"", 1 + 23 * 1009 * 60, None)]
