"""node_ws.js by the letter of RFC 6455: frames, fragments, and what it refuses."""

import os
import random
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from connprobe.wire.frames import BINARY, CLOSE, CONTINUATION, PING, TEXT, close_payload, frame
from running import eventually
from targets.conftest import COUNT, PATIENCE_S, Crowd, Serve, receives, until

MASK = b"mask"
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture
def node_ws(serve: Serve, crowd: Crowd) -> socket.socket:
    """A connection to node-ws whose upgrade is answered."""
    (one,) = crowd(serve("node-ws"), 1)
    upgrade(one)
    return one


def upgrade(one: socket.socket, more: bytes = b"") -> None:
    one.sendall(UPGRADE + more)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += one.recv(1)
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head  # RFC 6455, section 1.3


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 1 << 20])
def test_node_ws_echoes_payloads_of_every_length_form(node_ws: socket.socket, size: int) -> None:
    payload = os.urandom(size)
    node_ws.sendall(frame(BINARY, payload, MASK))
    assert receives(node_ws, frame(BINARY, payload))


def test_node_ws_joins_fragments_around_a_ping_and_pieces(node_ws: socket.socket) -> None:
    sent = (
        frame(TEXT, "caf\N{LATIN SMALL LETTER E WITH ACUTE}".encode()[:4], MASK, fin=False)
        + frame(PING, b"now", MASK)
        + frame(CONTINUATION, b"\xa9 ", MASK, fin=False)
        + frame(CONTINUATION, b"noir", MASK)
        + frame(TEXT, b"again", MASK)
    )
    for value in sent:
        node_ws.sendall(bytes((value,)))
    assert receives(node_ws, b"\x8a\x03now" + frame(TEXT, "café noir".encode()) + frame(TEXT, b"again"))


def test_node_ws_echoes_whatever_way_messages_are_cut(node_ws: socket.socket) -> None:
    chance = random.Random(23)
    for _ in range(COUNT):
        payload = chance.randbytes(chance.choice((0, 7, 127, 4099, 70_001)))
        cuts = sorted(chance.randrange(len(payload) + 1) for _ in range(chance.randrange(5)))
        pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        sent = b"".join(
            frame(CONTINUATION if index else BINARY, piece, chance.randbytes(4), fin=index == len(cuts))
            for index, piece in enumerate(pieces)
        )
        while sent:
            size = chance.randrange(1, 9001)
            node_ws.sendall(sent[:size])
            sent = sent[size:]
        assert receives(node_ws, frame(BINARY, payload))


def test_node_ws_takes_frames_that_come_with_the_upgrade(serve: Serve, crowd: Crowd) -> None:
    (one,) = crowd(serve("node-ws"), 1)
    upgrade(one, frame(TEXT, b"early", MASK))
    assert receives(one, frame(TEXT, b"early"))


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"unmasked"), 1002),
        (b"\xc1\x80mask", 1002),  # RSV1
        (b"\x83\x80mask", 1002),  # a reserved opcode
        (b"\x8b\x80mask", 1002),
        (b"\x09\x80mask", 1002),  # a ping in fragments
        (b"\x89\xfe\x00\x7emask", 1002),  # one of 126 bytes
        (b"\x82\xfe\x00\x05mask", 1002),  # 5 bytes in the form for 126 and more
        (b"\x82\xff\x00\x00\x00\x00\x00\x00\x00\x05mask", 1002),
        (b"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00mask", 1002),
        (b"\x82\xff\x00\x00\x00\x00\x00\x10\x00\x01mask", 1009),  # 1 MiB and a byte, only announced
        (frame(CONTINUATION, b"of nothing", MASK), 1002),
        (frame(TEXT, b"a", MASK, fin=False) + frame(TEXT, b"b", MASK), 1002),
        (frame(BINARY, b"", MASK, fin=False) + frame(CONTINUATION, b"", MASK, fin=False) * 1024, 1009),
        (frame(BINARY, bytes(1 << 20), MASK, fin=False) + frame(CONTINUATION, b"1", MASK), 1009),
        (frame(TEXT, b"\xff", MASK), 1007),
        (frame(CLOSE, b"\x03", MASK), 1002),
        (frame(CLOSE, (1005).to_bytes(2, "big"), MASK), 1002),
        (frame(CLOSE, close_payload(1000) + b"\xff", MASK), 1007),
        (frame(CLOSE, b"", MASK), 1000),
        (frame(CLOSE, close_payload(4001, "enough"), MASK), 4001),
    ],
)
def test_node_ws_closes_with_the_code_of_the_rfc(node_ws: socket.socket, sent: bytes, code: int) -> None:
    node_ws.sendall(sent + frame(TEXT, b"too late", MASK))
    assert receives(node_ws, frame(CLOSE, close_payload(code)))
    node_ws.shutdown(socket.SHUT_WR)
    assert node_ws.recv(1) == b""


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (b"GET", b"PUT"),
        (b"Version: 13", b"Version: 8"),
        (b"jZQ==", b"jZQ="),
        (b"WebSocket\r", b"h2c\r"),
    ],
)
def test_node_ws_refuses_what_is_no_upgrade_to_websocket(
    serve: Serve, crowd: Crowd, was: bytes, becomes: bytes
) -> None:
    (one,) = crowd(serve("node-ws"), 1)
    one.sendall(UPGRADE.replace(was, becomes, 1))
    assert until(one, b"\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert one.recv(1) == b""


def test_node_ws_reads_no_more_from_a_client_that_does_not_read(node_ws: socket.socket) -> None:
    node_ws.settimeout(1)
    message, sent = frame(BINARY, bytes(1 << 20), MASK), 0
    with suppress(TimeoutError):
        while sent < 256:
            node_ws.sendall(message)
            sent += 1
    assert sent < 64  # megabytes: what fits in the kernel's buffers, and one or two of its own


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_of_node_ws_end_with_their_parent(serve: Serve, number: signal.Signals) -> None:
    served = serve("node-ws", workers="3")
    assert eventually(lambda: len(served.family_tree()) == 4)
    family = served.family_tree()
    served.process.send_signal(number)
    served.process.wait(PATIENCE_S)
    assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family))


def test_node_ws_ends_when_a_worker_does(serve: Serve) -> None:
    served = serve("node-ws", workers="2")
    assert eventually(lambda: len(served.family_tree()) == 3)
    family = served.family_tree()
    os.kill(family[-1], signal.SIGKILL)
    assert served.process.wait(PATIENCE_S) == 1
    assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family))
