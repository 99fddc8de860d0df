"""Requests against h11, and against clients that try to smuggle."""

from itertools import pairwise

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connprobe.errors import ProtocolViolation
from connprobe.wire.http import MAX_HEAD, Request, RequestReader

HOST = b"Host: x\r\n"


def read(data: bytes, points: list[int], max_body: int = 1 << 20) -> tuple[list[Request], RequestReader]:
    reader = RequestReader(max_body)
    edges = sorted({0, len(data), *(point for point in points if point < len(data))})
    requests = []
    for low, high in pairwise(edges):
        requests += reader.feed(data[low:high])
    return requests, reader


def h11_request(target: str, pieces: list[bytes], chunked: bool) -> bytes:
    client = h11.Connection(h11.CLIENT)
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(sum(map(len, pieces))))
    events: list[h11.Event] = [
        h11.Request(method="POST", target=target, headers=[("Host", "x"), framing]),
        *(h11.Data(data=piece) for piece in pieces),
        h11.EndOfMessage(headers=[("x-sum", "1")] if chunked else []),
    ]
    return b"".join(client.send(event) or b"" for event in events)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.binary(max_size=50), max_size=4), st.booleans()), max_size=5),
    st.lists(st.integers(0, 900), max_size=12),
)
def test_reads_what_h11_asks_pipelined(sent: list[tuple[list[bytes], bool]], points: list[int]) -> None:
    wire = b"".join(h11_request(f"/{index}", pieces, chunked) for index, (pieces, chunked) in enumerate(sent))
    requests, _ = read(wire, points)
    assert [(request.method, request.path, request.body) for request in requests] == [
        ("POST", f"/{index}", b"".join(pieces)) for index, (pieces, _) in enumerate(sent)
    ]
    assert all(request.keep_alive and request.version_minor == 1 for request in requests)


@pytest.mark.parametrize("points", [[], list(range(300))])
def test_stops_behind_an_upgrade(points: list[int]) -> None:
    wire = b"GET /a HTTP/1.1\r\n" + HOST + b"\r\nGET /b HTTP/1.1\r\nUpgrade: websocket\r\n" + HOST + b"\r\n"
    requests, reader = read(wire + b"\x81\x85GET", points)
    assert [request.path for request in requests] == ["/a", "/b"]
    assert reader.feed(b"!") == []
    assert reader.take_rest() == b"\x81\x85GET!"
    assert reader.take_rest() == b""


def test_nothing_is_taken_without_an_upgrade() -> None:
    _, reader = read(b"GET / HT", [])
    assert reader.take_rest() == b""
    assert len(reader.feed(b"TP/1.1\r\n" + HOST + b"\r\n")) == 1


def test_empty_lines_between_requests_are_ignored() -> None:
    one = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
    wire = b"\r\n\r\n" + one + b"\r\n" + one
    for points in ([], list(range(len(wire)))):
        assert len(read(wire, points)[0]) == 2


@pytest.mark.parametrize("head", [b"GET / HTTP/1.0\r\n", b"GET / HTTP/1.1\r\nConnection: close\r\n"])
def test_nothing_is_read_behind_the_last_request(head: bytes) -> None:
    requests, reader = read((head + HOST + b"\r\n") * 3, [])
    assert [request.keep_alive for request in requests] == [False]
    assert reader.feed(b"\0garbage") == []


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5, 6\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length : 5\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n",
        b"Transfer-Encoding\r\n : chunked\r\n",
        b"A: b\r\n Transfer-Encoding: chunked\r\n",
        b"A: b\nTransfer-Encoding: chunked\r\n",
        b"A: b\rTransfer-Encoding: chunked\r\n",
    ],
)
def test_no_request_is_smuggled(head: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        read(
            b"POST / HTTP/1.1\r\n" + HOST + head + b"\r\n0\r\n\r\nGET /inner HTTP/1.1\r\n" + HOST + b"\r\n",
            [],
        )


@pytest.mark.parametrize("wire", [b"\x16\x03\x01\x02\0", b"\0", b"{", b" GET", b"\n"])
def test_garbage_is_known_at_its_first_byte(wire: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="no HTTP request"):
        read(wire[:1], [])


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_head_is_bounded(size: int) -> None:
    wire = b"GET /" + b"a" * (MAX_HEAD if size == 1 else 1 << 20)
    with pytest.raises(ProtocolViolation, match="request head exceeds 65536 bytes"):
        read(wire, list(range(0, len(wire), size)))


def test_a_body_is_bounded() -> None:
    post = b"POST / HTTP/1.1\r\n" + HOST
    assert read(post + b"Content-Length: 7\r\n\r\n1234567", [], 7)[0][0].body == b"1234567"
    with pytest.raises(ProtocolViolation, match="request body exceeds 7 bytes"):
        read(post + b"Content-Length: 8\r\n\r\n", [], 7)
    with pytest.raises(ProtocolViolation, match="request body exceeds 7 bytes"):
        read(post + b"Transfer-Encoding: chunked\r\n\r\n4\r\n1234\r\n4\r\n5678", [], 7)
