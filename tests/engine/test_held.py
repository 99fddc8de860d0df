"""Held connections over real loopback TCP: what the server sends, and what it reads at the end."""

import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from connprobe import causes
from connprobe.engine.held import FIRST_ROUND, FREE, HELD, HeldSet, Lost
from connprobe.wire.websocket import CLOSE, PING, PONG, TEXT, Event, FrameReader, close_payload, frame

MASK = b"\x01\x02\x03\x04"


class Pair:
    """A connection that `held` holds under `fd`, and the server's end of it."""

    def __init__(self, websocket: bool = True) -> None:
        self.held = HeldSet(1024, socket.AF_INET, websocket=websocket, longpoll=False, tls=False)
        # Of 127.0.0.1 thousands of ports may be in TIME_WAIT from whatever ran before.
        source = "127.{}.{}.{}".format(*os.urandom(3))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname(), source_address=(source, 0))
            self.server, self.client_address = listener.accept()
        self.server.settimeout(5)
        client.setblocking(False)
        self.fd = client.fileno()
        self.held.add(client, b"")
        self.reader = FrameReader(from_client=True, keep=1000)

    def said(self) -> list[Event]:
        return list(self.reader.feed(self.server.recv(1000)))

    def lost(self) -> tuple[str, str]:
        with pytest.raises(Lost) as caught:
            self.held.readable(self.fd)
        return caught.value.cause, caught.value.detail

    def deliver(self, data: bytes) -> None:
        """Sends, and waits until all of it has arrived: loopback delivers within sendall."""
        self.server.sendall(data)

    def port_is_free(self) -> bool:
        """Without SO_REUSEADDR, bind(2) refuses a port that a socket in TIME_WAIT still has."""
        with socket.socket() as probe:
            try:
                probe.bind(self.client_address)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                return False
        return True


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.server.close()
    if made.held.state[made.fd] != FREE:
        made.held.close(made.fd)


def test_ping_and_pong(pair: Pair) -> None:
    pair.held.ping(pair.fd, 7)
    assert pair.held.state[pair.fd] == FIRST_ROUND + 7
    assert pair.held.unanswered() == pair.held.unanswered(7) == pair.held.unanswered(257) == [pair.fd]
    assert pair.held.unanswered(8) == []
    assert (pair.held.awaiting, pair.held.next_held(0)) == (1, -1)
    (ping,) = pair.said()
    assert ping.opcode == PING
    pair.deliver(frame(PONG, ping.payload))
    pair.held.readable(pair.fd)
    assert pair.held.state[pair.fd] == HELD
    assert (pair.held.pings, pair.held.pongs) == (1, 1)
    assert pair.held.next_held(0) == pair.fd


def test_a_pong_in_pieces_or_behind_a_message_counts(pair: Pair) -> None:
    for _ in range(2):
        pair.held.ping(pair.fd, 7)
    (first, _) = pair.said()
    answer = frame(TEXT, b"hello") + frame(PONG, first.payload)
    for i in range(len(answer)):
        pair.deliver(answer[i : i + 1])
        pair.held.readable(pair.fd)
    assert pair.held.pongs == 1
    assert pair.held.bytes_read == len(answer)
    assert not pair.held._readers


@pytest.mark.parametrize("payload", [b"", b"else", b"x" * 125])
def test_other_pongs_answer_nothing(pair: Pair, payload: bytes) -> None:
    pair.held.ping(pair.fd, 7)
    pair.deliver(frame(PONG, payload))
    pair.held.readable(pair.fd)
    assert pair.held.state[pair.fd] == FIRST_ROUND + 7
    assert pair.held.pongs == 0


def test_a_pong_nobody_waits_for(pair: Pair) -> None:
    pair.held.ping(pair.fd, 7)
    (ping,) = pair.said()
    for _ in range(3):
        pair.deliver(frame(PONG, ping.payload))
        pair.held.readable(pair.fd)
    assert pair.held.pongs == 1


def test_the_servers_pings_are_answered(pair: Pair) -> None:
    pair.deliver(frame(PING, b"are you there"))
    pair.held.readable(pair.fd)
    (pong,) = pair.said()
    assert (pong.opcode, pong.payload) == (PONG, b"are you there")


def test_a_close_frame_is_answered_and_ends_it(pair: Pair) -> None:
    pair.deliver(frame(CLOSE, close_payload(1001, "going")))
    assert pair.lost() == (causes.EOF, "close frame 1001")
    (answer,) = pair.said()
    assert (answer.opcode, answer.code) == (CLOSE, 1001)


def test_a_close_frame_without_a_code(pair: Pair) -> None:
    pair.deliver(frame(CLOSE))
    assert pair.lost() == (causes.EOF, "close frame without a code")


@pytest.mark.parametrize(
    "data", [frame(TEXT, b"x", MASK), b"\xf1\x00", b"\x83\x00", b"HTTP/1.1 400 Bad\r\n\r\n"]
)
def test_what_is_no_servers_frame_ends_it(pair: Pair, data: bytes) -> None:
    pair.deliver(data)
    cause, detail = pair.lost()
    assert cause == causes.PROTOCOL
    assert detail.isprintable()
    assert pair.said()[0].opcode == CLOSE


def test_a_frame_that_came_with_the_handshake(pair: Pair) -> None:
    first, second = socket.socketpair()
    fd = first.fileno()
    with second:
        pair.held.add(first, frame(PING, b"early"))
        reader = FrameReader(from_client=True, keep=1000)
        assert reader.feed(second.recv(100))[0].payload == b"early"
        pair.held.close(fd)
    assert pair.held.count == 1


def test_end_of_file(pair: Pair) -> None:
    pair.server.close()
    assert pair.lost() == (causes.EOF, "closed by the server")


def test_reset(pair: Pair) -> None:
    pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair.server.close()
    cause, detail = pair.lost()
    assert cause == causes.RESET
    assert detail.startswith(errno.errorcode[errno.ECONNRESET])


def test_nothing_to_read_is_no_loss(pair: Pair) -> None:
    pair.held.readable(pair.fd)
    assert pair.held.bytes_read == 0


def test_without_websocket_bytes_are_counted_alone() -> None:
    pair = Pair(websocket=False)
    pair.deliver(frame(CLOSE) + b"whatever")
    pair.held.readable(pair.fd)
    assert pair.held.bytes_read == 10
    pair.held.leave(pair.fd)
    pair.held.close(pair.fd)
    assert pair.server.recv(100) == b""
    pair.server.close()


def test_closing_is_clean_for_the_server_and_leaves_no_time_wait(pair: Pair) -> None:
    pair.held.leave(pair.fd)
    pair.held.close(pair.fd)
    (goodbye,) = pair.said()
    assert (goodbye.opcode, goodbye.code) == (CLOSE, 1000)
    assert pair.server.recv(100) == b""  # an end of file, not ECONNRESET
    pair.server.close()
    assert pair.port_is_free()
    assert pair.held.count == 0
    assert pair.held.state[pair.fd] == FREE


def test_an_ordinary_close_would_leave_one(pair: Pair) -> None:
    """That the test above can fail."""
    client = socket.socket(fileno=pair.fd)
    client.close()
    assert pair.server.recv(100) == b""
    pair.server.close()
    assert not pair.port_is_free()
    pair.held.state[pair.fd] = FREE


def test_closing_what_the_server_has_reset_raises_nothing(pair: Pair) -> None:
    pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair.server.close()
    pair.held.leave(pair.fd)
    pair.held.close(pair.fd)
    assert pair.held.count == 0


def test_a_server_that_does_not_read_loses_no_connection(pair: Pair) -> None:
    """When not even a ping fits, nothing was sent and nothing is counted."""
    for _ in range(1_000_003):
        before = pair.held.pings
        pair.held.ping(pair.fd, 7)
        if pair.held.pings == before:
            break
    else:
        pytest.fail("the socket buffer never filled")
    assert pair.held.state[pair.fd] == FIRST_ROUND + 7
