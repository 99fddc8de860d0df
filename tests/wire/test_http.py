"""Responses against h11, an independent implementation."""

from itertools import pairwise

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connprobe.wire.http import (
    ResponseReader,
    parse_response_head,
    request_bytes,
    response_bytes,
)

FEW = settings(max_examples=120, deadline=None)

cuts = st.lists(st.integers(0, 600), max_size=12)
names = st.from_regex(r"x-[a-z0-9!#$%&'*+.^_`|~-]{0,12}", fullmatch=True)
values = st.from_regex(r"([!-~\x80-\xff]([ \t!-~\x80-\xff]{0,20}[!-~\x80-\xff])?)?", fullmatch=True)
headers = st.lists(st.tuples(names, values), max_size=7)


def cut(data: bytes, points: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(point for point in points if point < len(data))})
    return [data[low:high] for low, high in pairwise(edges)]


def read(data: bytes, points: list[int], method: str = "GET") -> ResponseReader:
    reader = ResponseReader(method)
    for piece in cut(data, points):
        reader.feed(piece)
    return reader


def h11_server(request: bytes) -> h11.Connection:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(request)
    assert isinstance(connection.next_event(), h11.Request)
    assert isinstance(connection.next_event(), h11.EndOfMessage)
    return connection


@FEW
@given(
    headers,
    st.sampled_from(["length", "chunked", "close"]),
    st.lists(st.binary(max_size=70), max_size=5),
    st.lists(st.sampled_from([100, 102, 103]), max_size=3),
    st.binary(max_size=20),
    cuts,
)
def test_reads_what_h11_answers(
    fields: list[tuple[str, str]],
    framing: str,
    pieces: list[bytes],
    interim: list[int],
    behind: bytes,
    points: list[int],
) -> None:
    # Towards HTTP/1.0, h11 ends a body of unknown length by closing.
    server = h11_server(
        b"GET / HTTP/1.0\r\n\r\n" if framing == "close" else b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    wire = b""
    for status in interim:
        wire += server.send(h11.InformationalResponse(status_code=status, headers=[("x-early", "1")])) or b""
    sent = [(name.encode(), value.encode("latin-1")) for name, value in fields]
    if framing == "length":
        sent.append((b"Content-Length", str(sum(map(len, pieces))).encode()))
    wire += server.send(h11.Response(status_code=200, headers=sent, reason=b"OK")) or b""
    for piece in pieces:
        wire += server.send(h11.Data(data=piece)) or b""
    wire += server.send(h11.EndOfMessage(headers=[("x-trailer", "1")] if framing == "chunked" else [])) or b""
    if framing != "close":
        wire += behind
    reader = read(wire, points)
    assert reader.head is not None
    expected: dict[str, str] = {}
    for name, value in fields:
        expected[name] = f"{expected[name]}, {value}" if name in expected else value
    assert {name: value for name, value in reader.head.headers.items() if name in expected} == expected
    assert reader.head.status == 200
    assert reader.body_bytes == sum(map(len, pieces))
    assert reader.delimited is (framing != "close")
    if framing == "close":
        assert not reader.complete
        reader.eof()
    assert reader.complete
    assert reader.keep_alive is (framing != "close")
    assert reader.excess == (b"" if framing == "close" else behind)


@FEW
@given(headers, st.binary(max_size=100), st.integers(0, 3))
def test_h11_reads_what_is_written(fields: list[tuple[str, str]], body: bytes, extra: int) -> None:
    fields = [("Host", "localhost"), *fields, ("Content-Length", str(len(body)))]
    server = h11.Connection(h11.SERVER)
    server.receive_data(request_bytes("POST", "/p?q=1" + "x" * extra, fields) + body)
    request = server.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.target) == (b"POST", b"/p?q=1" + b"x" * extra)
    assert [(name.decode(), value.decode("latin-1")) for name, value in request.headers] == [
        (name.lower(), value) for name, value in fields
    ]
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(response_bytes(200, "OK", fields[1:-1], body))
    response = client.next_event()
    assert isinstance(response, h11.Response)
    assert (b"content-length", str(len(body)).encode()) in list(response.headers)
    event = client.next_event()
    if body:
        assert isinstance(event, h11.Data)
        assert event.data == body
        event = client.next_event()
    assert isinstance(event, h11.EndOfMessage)


@pytest.mark.parametrize(
    ("method", "status", "complete"),
    [("HEAD", 200, True), ("GET", 204, True), ("GET", 304, True), ("GET", 200, False)],
)
def test_some_answers_have_no_body_whatever_they_announce(method: str, status: int, complete: bool) -> None:
    reader = read(b"HTTP/1.1 %d x\r\nContent-Length: 7\r\n\r\n" % status, [], method)
    assert reader.complete is complete


def test_101_ends_http_and_keeps_what_follows() -> None:
    wire = b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 101 Go\r\nContent-Length: 5\r\n\r\n\x81\x02"
    for points in ([], list(range(len(wire)))):
        reader = read(wire, points)
        reader.feed(b"hi")
        assert reader.head == (101, "Go", {"content-length": "5"})
        assert reader.complete
        assert reader.excess == b"\x81\x02hi"
        assert not reader.keep_alive


def test_http_1_0_closes_unless_told_otherwise() -> None:
    assert not read(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", []).keep_alive
    assert read(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", []).keep_alive


def test_a_body_until_close_ends_the_connection() -> None:
    reader = read(b"HTTP/1.1 200 OK\r\n\r\nseven b", [])
    assert not reader.complete
    assert not reader.delimited
    reader.eof()
    assert reader.complete
    assert reader.body_bytes == 7
    assert not reader.keep_alive


def test_the_parser_and_the_reader_agree() -> None:
    wire = b"HTTP/1.1 404 Not Found\r\nA: b\r\nContent-Length: 0\r\n\r\n"
    assert read(wire, [3, 30]).head == parse_response_head(wire)


@pytest.mark.parametrize(
    ("method", "path", "name", "value"),
    [
        ("GE T", "/", "A", "b"),
        ("", "/", "A", "b"),
        ("GET\r\n", "/", "A", "b"),
        ("GET", "/a b", "A", "b"),
        ("GET", "", "A", "b"),
        ("GET", "/\r\nX: y", "A", "b"),
        ("GET", "/café", "A", "b"),
        ("GET", "/", "A b", "c"),
        ("GET", "/", "A:", "c"),
        ("GET", "/", "A\n", "c"),
        ("GET", "/", "", "c"),
        ("GET", "/", "A", "b\r\nC: d"),
        ("GET", "/", "A", "b\n"),
        ("GET", "/", "A", "b\0"),
        ("GET", "/", "A", "☃"),
    ],
)
def test_no_request_can_be_injected(method: str, path: str, name: str, value: str) -> None:
    with pytest.raises(ValueError, match=r"token|path|holds|codec"):
        request_bytes(method, path, [("Host", "x"), (name, value)])


@pytest.mark.parametrize(
    ("status", "given", "expected"),
    [
        (200, [], b"Content-Length: 3\r\n"),
        (200, [("content-length", "3")], b"content-length: 3\r\n"),
        (200, [("Transfer-Encoding", "chunked")], b"Transfer-Encoding: chunked\r\n"),
        (304, [], b""),
        (101, [], b""),
    ],
)
def test_a_response_says_where_it_ends_once(
    status: int, given: list[tuple[str, str]], expected: bytes
) -> None:
    assert response_bytes(status, "x", given, b"abc") == b"HTTP/1.1 %d x\r\n%b\r\nabc" % (status, expected)


def test_no_response_can_be_injected() -> None:
    with pytest.raises(ValueError, match="status line"):
        response_bytes(200, "OK\r\nA: b", [])
    with pytest.raises(ValueError, match="status line"):
        response_bytes(20, "OK", [])
