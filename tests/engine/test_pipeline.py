"""One connection of pipelined requests against a peer of the test's own: what is written, what is taken."""

import socket
from collections.abc import Callable, Iterator

import pytest

from connprobe.engine.pipeline import Pipeline
from running import eventually
from servers import RESET

REQUEST = b"GET /poll HTTP/1.1\r\nHost: x\r\nX-Pad: 23\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"
Pair = tuple[Pipeline, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pipeline = Pipeline(socket.AF_INET, listener.getsockname(), REQUEST, 5.0)
        peer, _ = listener.accept()
        peer.settimeout(20)
        with peer:
            yield pipeline, peer
        pipeline.close()


def exactly(peer: socket.socket, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        data = peer.recv(length - len(received))
        assert data
        received += data
    return bytes(received)


def taken(pipeline: Pipeline, condition: Callable[[], bool]) -> bool:
    def look() -> bool:
        pipeline.receive()
        return condition()

    return eventually(look)


def sent(pair: Pair, requests: int) -> None:
    """Written by us, and read by the peer."""
    pipeline, peer = pair
    length = requests * len(REQUEST)
    assert pipeline.write(length) == length
    assert exactly(peer, length) == REQUEST * requests


def test_whatever_the_kernel_takes_the_requests_stay_whole(pair: Pair) -> None:
    pipeline, peer = pair
    while pipeline.write(1 << 30):  # until both sockets are full, most likely inside of a request
        pass
    assert pipeline.sent_bytes > 100_000
    assert pipeline.sent == pipeline.sent_bytes // len(REQUEST)
    received = exactly(peer, pipeline.sent_bytes)
    assert eventually(pipeline.complete)
    received += exactly(peer, pipeline.sent_bytes - len(received))
    assert received == REQUEST * pipeline.sent


@pytest.mark.parametrize("size", [1, 7, 43, 4096])
def test_what_is_written_in_pieces_is_one_text(pair: Pair, size: int) -> None:
    pipeline, peer = pair
    while pipeline.sent < 23:
        assert pipeline.write(size)
    assert exactly(peer, 23 * len(REQUEST)) == REQUEST * 23


def test_what_the_peer_has_not_acknowledged_is_known(pair: Pair) -> None:
    pipeline, peer = pair
    assert pipeline.unacknowledged_bytes() == 0
    while pipeline.write(1 << 30):
        pass
    waiting = pipeline.unacknowledged_bytes()
    assert 0 < waiting < pipeline.sent_bytes
    exactly(peer, pipeline.sent_bytes)
    assert eventually(lambda: pipeline.unacknowledged_bytes() == 0)


@pytest.mark.parametrize("size", [1, 5, 1 << 20])
def test_answers_are_counted_however_they_are_cut(pair: Pair, size: int) -> None:
    pipeline, peer = pair
    sent(pair, 23)
    chunked = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nok\n\r\n0\r\n\r\n"
    stream = b"HTTP/1.1 100 Continue\r\n\r\n" + OK * 11 + chunked * 12
    for at in range(0, len(stream), size):
        peer.sendall(stream[at : at + size])
    assert taken(pipeline, lambda: pipeline.answers == 23)
    assert pipeline.statuses == {200: 11, 201: 12}
    assert pipeline.answer_bytes == len(stream)
    assert (pipeline.over, pipeline.disordered) == (None, None)


def test_answers_that_name_their_place_are_held_to_it(pair: Pair) -> None:
    pipeline, peer = pair
    sent(pair, 4)
    for number in (1, 3, 2, 4):
        peer.sendall(b"HTTP/1.1 204 No Content\r\nConnprobe-Number: %d\r\n\r\n" % number)
    assert taken(pipeline, lambda: pipeline.answers == 4)
    assert pipeline.disordered == 2


@pytest.mark.parametrize(
    ("answer", "over", "answers"),
    [
        (OK * 3, "the server broke HTTP: an answer that nothing was asked for", 2),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the server broke HTTP: the answer is not HTTP/1", 0),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, "the server broke HTTP: response head exceeds 65536", 0),
        (
            OK[:-7] + b"\r\nConnection: close\r\n\r\nok\n",
            "the server ended the connection with its answer 1",
            1,
        ),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", "the server ended the connection with its", 1),
    ],
)
def test_what_ends_it_is_said(pair: Pair, answer: bytes, over: str, answers: int) -> None:
    pipeline, peer = pair
    sent(pair, 2)
    peer.sendall(answer)
    assert taken(pipeline, lambda: pipeline.over is not None)
    assert pipeline.over is not None
    assert pipeline.over.startswith(over)
    assert pipeline.answers == answers
    assert pipeline.write(len(REQUEST)) == 0


def test_a_body_that_lasts_until_the_close_is_an_answer(pair: Pair) -> None:
    pipeline, peer = pair
    sent(pair, 2)
    peer.sendall(b"HTTP/1.1 200 OK\r\n\r\nas long as it likes")
    peer.close()
    assert taken(pipeline, lambda: pipeline.over is not None)
    assert pipeline.answers == 1


@pytest.mark.parametrize("part", [b"", OK[:20], OK[:-1]])
def test_a_close_in_the_middle_is_no_answer(pair: Pair, part: bytes) -> None:
    pipeline, peer = pair
    sent(pair, 2)
    peer.sendall(part)
    peer.close()
    assert taken(pipeline, lambda: pipeline.over is not None)
    assert pipeline.answers == 0


def test_a_reset_is_told_from_a_close(pair: Pair) -> None:
    pipeline, peer = pair
    sent(pair, 2)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    peer.close()
    assert taken(pipeline, lambda: pipeline.over is not None)
    assert pipeline.over == "the server reset the connection"


def test_nobody_there_is_an_error_of_the_system() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with pytest.raises(ConnectionRefusedError):
        Pipeline(socket.AF_INET, address, REQUEST, 5.0)
