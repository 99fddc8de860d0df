"""The chunked coding, by hand: whatever the split, the same bytes end at the same place."""

import pytest

from connprobe.errors import ProtocolViolation
from connprobe.wire.chunked import MAX_CHUNK_LINE, ChunkedBody
from connprobe.wire.head import MAX_HEAD

CODED = b'5;name="v"\r\nhello\r\n00B ; x\r\n\r\n0\r\nworld\r\n\r\n0;last\r\nSum: 1\r\nVia: a\r\n\r\n'
PLAIN = b"hello\r\n0\r\nworld\r"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_every_split_ends_at_the_same_byte(size: int) -> None:
    body, sink, buffer, taken = ChunkedBody(), bytearray(), bytearray(), 0
    sent = CODED.replace(b"world\r\n\r\n0;", b"world\r\r\n0;") + b"NEXT"
    for at in range(0, len(sent), size):
        buffer += sent[at : at + size]
        taken += body.take(buffer, sink)
    assert body.complete
    assert bytes(sink) == PLAIN[:-1] + b"\r"
    assert taken == len(sink)
    assert buffer == b"NEXT"


@pytest.mark.parametrize(
    ("coded", "message"),
    [
        (b"\r\n", "malformed chunk size"),
        (b" 5\r\nhello\r\n", "malformed chunk size"),
        (b"-5\r\nhello\r\n", "malformed chunk size"),
        (b"0x5\r\nhello\r\n", "malformed chunk size"),
        (b"5\nhello\r\n", "malformed chunk size"),
        (b"5;a\nhello\r\n", "malformed chunk size"),
        (b"5 hello\r\n", "malformed chunk size"),
        (b"1" + b"0" * 15 + b"\r\n", "malformed chunk size"),
        (b"5\r\nhello!\r\n", "a chunk is longer than its size"),
        (b"5\r\nhello\n0\r\n\r\n", "a chunk is longer than its size"),
        (b"0\r\nno colon\r\n\r\n", "malformed trailer"),
        (b"0\r\n folded: x\r\n\r\n", "malformed trailer"),
        (b"0\r\nA: b\n\r\n", "malformed trailer"),
        (b"5;" + b"x" * MAX_CHUNK_LINE, f"chunk line exceeds {MAX_CHUNK_LINE} bytes"),
        (b"0\r\n" + b"A: b\r\n" * (MAX_HEAD // 6 + 1), f"trailers exceed {MAX_HEAD} bytes"),
        (b"0\r\nA: " + b"b" * MAX_HEAD, f"trailers exceed {MAX_HEAD} bytes"),
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_a_broken_chunk_is_named(coded: bytes, message: str, bytewise: bool) -> None:
    body, buffer = ChunkedBody(), bytearray()

    def feed() -> None:
        for at in range(len(coded)):
            buffer.append(coded[at])
            body.take(buffer)

    with pytest.raises(ProtocolViolation) as caught:
        feed() if bytewise else body.take(bytearray(coded))
    assert str(caught.value) == message
