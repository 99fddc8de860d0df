"""The opening handshake against wsproto in both roles, and against servers that get it wrong."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto import events as ws

from connprobe import causes
from connprobe.errors import ProtocolViolation
from connprobe.wire.http import (
    Request,
    RequestReader,
    ResponseHead,
    ResponseReader,
    request_bytes,
    response_bytes,
)
from connprobe.wire.websocket import (
    TEXT,
    FrameReader,
    accept_for,
    frame,
    is_upgrade,
    key_from,
    refusal,
    upgrade_answer,
    upgrade_headers,
)

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # the example of RFC 6455, section 1.3
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
GOOD = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-accept": ACCEPT}


def test_the_example_of_the_rfc() -> None:
    assert key_from(b"the sample nonce") == KEY
    assert accept_for(KEY) == ACCEPT.encode()
    with pytest.raises(ValueError, match="16 bytes"):
        key_from(b"short")


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=16, max_size=16), st.lists(st.integers(0, 400), max_size=8), st.text(max_size=20))
def test_our_client_and_their_server(nonce: bytes, points: list[int], text: str) -> None:
    server = WSConnection(ConnectionType.SERVER)
    key = key_from(nonce)
    server.receive_data(request_bytes("GET", "/chat?a=b", upgrade_headers(key, "host:8080")))
    (request,) = server.events()
    assert isinstance(request, ws.Request)
    assert (request.host, request.target) == ("host:8080", "/chat?a=b")
    wire = server.send(ws.AcceptConnection()) + server.send(ws.TextMessage(data=text))
    reader = ResponseReader()
    edges = sorted({0, len(wire), *(point for point in points if point < len(wire))})
    for low, high in pairwise(edges):
        reader.feed(wire[low:high])
    assert reader.head is not None
    assert refusal(reader.head, accept_for(key)) is None
    (event,) = FrameReader(from_client=False, keep=1000).feed(reader.excess)
    assert (event.opcode, event.payload) == (TEXT, text.encode())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 400), max_size=8), st.text(max_size=20))
def test_their_client_and_our_server(points: list[int], text: str) -> None:
    client = WSConnection(ConnectionType.CLIENT)
    wire = client.send(ws.Request(host="host:8080", target="/chat", subprotocols=["a", "b"]))
    reader = RequestReader()
    requests: list[Request] = []
    edges = sorted({0, len(wire), *(point for point in points if point < len(wire))})
    for low, high in pairwise(edges):
        requests += reader.feed(wire[low:high])
    (request,) = requests
    assert is_upgrade(request)
    client.receive_data(upgrade_answer(request) + frame(TEXT, text.encode()))
    accepted, received = client.events()
    assert isinstance(accepted, ws.AcceptConnection)
    assert accepted.subprotocol is None
    assert isinstance(received, ws.TextMessage)
    assert received.data == text
    (event,) = FrameReader(from_client=True, keep=1000).feed(client.send(ws.TextMessage(data=text)))
    assert event.payload == text.encode()


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"upgrade": None}, "101 without Upgrade: websocket"),
        ({"upgrade": "h2c"}, "101 without Upgrade: websocket"),
        ({"connection": None}, "101 without Connection: Upgrade"),
        ({"connection": "keep-alive"}, "101 without Connection: Upgrade"),
        ({"sec-websocket-accept": None}, "101 without Sec-WebSocket-Accept"),
        ({"sec-websocket-accept": ACCEPT.swapcase()}, "101 with a wrong Sec-WebSocket-Accept"),
        ({"sec-websocket-accept": f"{ACCEPT}, {ACCEPT}"}, "101 with a wrong Sec-WebSocket-Accept"),
        ({"sec-websocket-extensions": "permessage-deflate"}, "101 with an extension that was not offered"),
        ({"sec-websocket-protocol": "chat"}, "101 with a subprotocol that was not offered"),
        ({"sec-websocket-protocol": ""}, "101 with a subprotocol that was not offered"),
    ],
)
def test_a_101_that_is_none(change: dict[str, str | None], detail: str) -> None:
    merged = {**GOOD, **change}
    headers = {name: value for name, value in merged.items() if value is not None}
    assert refusal(ResponseHead(101, "", headers), ACCEPT.encode()) == (causes.PROTOCOL, detail)


@pytest.mark.parametrize("change", [{}, {"upgrade": "WebSocket"}, {"connection": "keep-alive, upgrade"}])
def test_a_101_that_is_one(change: dict[str, str]) -> None:
    assert refusal(ResponseHead(101, "", {**GOOD, **change}), ACCEPT.encode()) is None


def test_a_subprotocol_that_was_offered() -> None:
    head = ResponseHead(101, "", {**GOOD, "sec-websocket-protocol": "chat"})
    assert refusal(head, ACCEPT.encode(), frozenset({"chat", "echo"})) is None


@pytest.mark.parametrize(
    ("status", "reason", "detail"),
    [
        (503, "Service Unavailable", "503 Service Unavailable"),
        (200, "", "200"),
        (400, "\x1b[31mred\x07\x9b", "400 ?[31mred??"),
        (400, "x" * 70_000, "400 " + "x" * 57 + "..."),
    ],
)
def test_a_refusal_is_short_and_printable(status: int, reason: str, detail: str) -> None:
    assert refusal(ResponseHead(status, reason, GOOD), ACCEPT.encode()) == (causes.REJECTED, detail)


@pytest.mark.parametrize(
    ("method", "minor", "change", "message"),
    [
        ("POST", 1, {}, "a WebSocket needs GET and HTTP/1.1"),
        ("GET", 0, {}, "a WebSocket needs GET and HTTP/1.1"),
        ("GET", 1, {"upgrade": "h2c"}, "the request asks for no WebSocket"),
        ("GET", 1, {"connection": "close"}, "the request asks for no WebSocket"),
        ("GET", 1, {"sec-websocket-version": "8"}, "the WebSocket version is not 13"),
        ("GET", 1, {"sec-websocket-key": ""}, "Sec-WebSocket-Key is not the base64 of 16 bytes"),
        ("GET", 1, {"sec-websocket-key": "AAAA"}, "Sec-WebSocket-Key is not the base64 of 16 bytes"),
        (
            "GET",
            1,
            {"sec-websocket-key": f"{KEY.decode()}\n"},
            "Sec-WebSocket-Key is not the base64 of 16 bytes",
        ),
    ],
)
def test_an_upgrade_that_is_refused(method: str, minor: int, change: dict[str, str], message: str) -> None:
    asked = {name.lower(): value for name, value in upgrade_headers(KEY, "x")}
    with pytest.raises(ProtocolViolation) as caught:
        upgrade_answer(Request(method, "/", {**asked, **change}, b"", True, minor))
    assert str(caught.value) == message


def test_both_of_our_ends_agree() -> None:
    reader = RequestReader()
    (request,) = reader.feed(
        request_bytes("GET", "/", upgrade_headers(KEY, "x")) + frame(TEXT, b"hi", b"mask")
    )
    client = ResponseReader()
    client.feed(upgrade_answer(request))
    assert client.head is not None
    assert refusal(client.head, ACCEPT.encode()) is None
    (event,) = FrameReader(from_client=True, keep=2).feed(reader.take_rest())
    assert event.payload == b"hi"


def test_an_ordinary_request_is_no_upgrade() -> None:
    (request,) = RequestReader().feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert not is_upgrade(request)
    reader = ResponseReader()
    reader.feed(response_bytes(426, "Upgrade Required", [("Sec-WebSocket-Version", "13")]))
    assert reader.head is not None
    assert refusal(reader.head, ACCEPT.encode()) == (causes.REJECTED, "426 Upgrade Required")
