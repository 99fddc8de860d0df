"""What a head may look like, for each side, and what the messages say when it does not."""

import pytest

from connprobe.errors import ProtocolViolation
from connprobe.wire.head import (
    ABSENT,
    CHUNKED,
    MAX_HEADERS,
    UNTIL_CLOSE,
    body_framing,
    keeps_alive,
    parse_request_head,
    parse_response_head,
)


def test_fields_are_lowered_trimmed_and_joined() -> None:
    head = parse_response_head(
        b"HTTP/1.1 200 Quite all right\r\nServer:x/1 \r\nVIA: a\r\nvia:\t b\r\nEmpty:\r\nQ: caf\xe9\r\n\r\n"
    )
    assert (head.status, head.reason) == (200, "Quite all right")
    assert head.headers == {"server": "x/1", "via": "a, b", "empty": "", "q": "café"}


@pytest.mark.parametrize("start", [b"HTTP/1.1 204", b"HTTP/1.1 204 ", b"HTTP/1.0 204 "])
def test_a_reason_may_be_missing(start: bytes) -> None:
    assert parse_response_head(start + b"\r\n\r\n") == (204, "", {})


def test_a_client_takes_bare_line_feeds_and_unfolds() -> None:
    head = parse_response_head(b"HTTP/1.1 200 OK\nA: one\n  two\r\n\tthree\r\nB: four\n\n")
    assert head.headers == {"a": "one two three", "b": "four"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"HTTP/2 200 OK\r\n\r\n", "malformed status line"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "malformed status line"),
        (b"HTTP/1.1 0200 OK\r\n\r\n", "malformed status line"),
        (b"HTTP/1.1  200 OK\r\n\r\n", "malformed status line"),
        (b"HTTP/1.1 200 O\0K\r\n\r\n", "malformed status line"),
        (b"HTTP/1.1 200 OK\r\n A: b\r\n\r\n", "header 1 is folded or starts with a space"),
        (b"HTTP/1.1 200 OK\r\nA: b\r\nB : c\r\n\r\n", "header 2 has a space before its colon"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "header 1 is malformed"),
        (b"HTTP/1.1 200 OK\r\n: no name\r\n\r\n", "header 1 is malformed"),
        (b"HTTP/1.1 200 OK\r\nA: b\rC: d\r\n\r\n", "header 1 is malformed"),
        (b"HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n", "header 1 is malformed"),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n", "the head does not end with one blank line"),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody: x\r\n", "the head does not end with one blank line"),
    ],
)
def test_a_broken_response_head_is_named(raw: bytes, message: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        parse_response_head(raw)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", "malformed request line"),
        (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", "malformed request line"),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", "malformed request line"),
        (b"GET /\r\n\r\n", "malformed request line"),
        (b"G@T / HTTP/1.1\r\nHost: x\r\n\r\n", "malformed request line"),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", "malformed request line"),
        (b"GET / HTTP/1.1\nHost: x\n\n", "a line of the head ends with a bare LF"),
        (b"GET / HTTP/1.1\r\nHost: x\n\r\n", "a line of the head ends with a bare LF"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n", "header 2 is folded or starts with a space"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\n", "header 2 has a space before its colon"),
        (b"GET / HTTP/1.1\r\nA: b\r\n\r\n", "the request has no Host"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "the request has more than one Host"),
    ],
)
def test_a_broken_request_head_is_named(raw: bytes, message: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        parse_request_head(raw)
    assert str(caught.value) == message


def test_http_1_0_needs_no_host() -> None:
    assert parse_request_head(b"GET / HTTP/1.0\r\n\r\n") == ("GET", "/", 0, {})


@pytest.mark.parametrize(("count", "allowed"), [(MAX_HEADERS, True), (MAX_HEADERS + 1, False)])
def test_headers_are_bounded_in_number(count: int, allowed: bool) -> None:
    raw = b"HTTP/1.1 200 OK\r\n" + b"".join(b"h%d: v\r\n" % index for index in range(count)) + b"\r\n"
    if allowed:
        assert len(parse_response_head(raw).headers) == count
    else:
        with pytest.raises(ProtocolViolation, match="more than 256 headers"):
            parse_response_head(raw)


@pytest.mark.parametrize(
    ("minor", "connection", "expected"),
    [
        (1, None, True),
        (1, "close", False),
        (1, "Upgrade, Close", False),
        (1, "keep-alive", True),
        (0, None, False),
        (0, "Keep-Alive", True),
        (0, "keep-alive, close", False),
        (1, "disclose", True),
    ],
)
def test_how_long_a_connection_lives(minor: int, connection: str | None, expected: bool) -> None:
    headers = {} if connection is None else {"connection": connection}
    assert keeps_alive(headers, minor) is expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, ABSENT),
        ({"content-length": "0"}, 0),
        ({"content-length": "007"}, 7),
        ({"content-length": "42, 42"}, 42),
        ({"content-length": "9" * 18}, 10**18 - 1),
        ({"transfer-encoding": "Chunked"}, CHUNKED),
        ({"transfer-encoding": "gzip, chunked"}, CHUNKED),
        ({"transfer-encoding": "gzip"}, UNTIL_CLOSE),
    ],
)
def test_where_a_body_ends(headers: dict[str, str], expected: int) -> None:
    assert body_framing(headers, 1) == expected


@pytest.mark.parametrize(
    "headers",
    [
        {"content-length": length}
        for length in ("", "-1", "+5", "5 5", "0x10", "1_0", "5, 6", "5,", "\u0665", "9" * 19, "9" * 5000)
    ]
    + [
        {"transfer-encoding": "chunked", "content-length": "5"},
        {"transfer-encoding": "chunked, gzip"},
        {"transfer-encoding": "chunked, chunked"},
    ],
)
def test_a_body_without_one_clear_end_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ProtocolViolation):
        body_framing(headers, 1)


def test_transfer_encoding_does_not_belong_in_http_1_0() -> None:
    with pytest.raises(ProtocolViolation, match=r"HTTP/1\.0"):
        body_framing({"transfer-encoding": "chunked"}, 0)
