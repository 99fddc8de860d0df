"""Peers that break the framing, or try to exhaust whoever reads it."""

import pickle
import tracemalloc
from itertools import pairwise

import pytest

from connprobe.wire.websocket import (
    CLOSE,
    CONTINUATION,
    TEXT,
    Event,
    FrameReader,
    FrameViolation,
    close_payload,
    frame,
)

MASK = b"\x12\x34\x56\x78"
PART = b"\x01\x01a"  # an unfinished text message


def feed(reader: FrameReader, wire: bytes, points: list[int]) -> list[Event]:
    edges = sorted({0, len(wire), *(point for point in points if point < len(wire))})
    events = []
    for low, high in pairwise(edges):
        events += reader.feed(wire[low:high])
    return events


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
