"""What counts as established. The short cut for answers seen before must never change a verdict."""

import re
from base64 import b64encode
from hashlib import sha1

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connprobe import causes
from connprobe.engine.bursts import MOST
from connprobe.engine.failure import Refusal
from connprobe.engine.opening import (
    KEYS,
    MOST_BYTES,
    HttpOpening,
    Opening,
    TcpOpening,
    WebSocketOpening,
    opening_for,
)
from connprobe.engine.task import Task
from connprobe.wire.http import ResponseReader
from servers import GUID

TASK = Task(
    share=1,
    goal=1,
    family=2,
    target=("127.0.0.1", 80),
    sources=(("", 1, 0, None),),
    protocol="ws",
    http_mode="keepalive",
    host="server:80",
    path="/ws",
    headers=(),
    concurrency=1,
    interval_s=0.0,
    delay_s=0.0,
    timeout_s=1.0,
    ping_s=0.0,
    reconnect_attempts=0,
    tls=None,
)
HEAD = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)
END = b"\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"


class Pending:
    def __init__(self, expected: bytes = b"") -> None:
        self.expected = expected
        self.reader: ResponseReader | None = None


def verdict(opening: Opening, expected: bytes, *pieces: bytes) -> object:
    """What becomes of a connection whose server says this."""
    pending = Pending(expected)
    try:
        for piece in pieces:
            leftover = opening.answer(pending, piece)
            if leftover is not None:
                return "established", leftover
    except Refusal as refusal:
        return refusal.cause, refusal.detail
    return "waiting"


def requests(opening: Opening, number: int) -> tuple[bytes, list[bytes]]:
    """What they send, and what they expect."""
    sent, first = opening.requests(number)
    return sent, opening.expected(first, number)


def request(opening: Opening) -> tuple[bytes, bytes]:
    sent, (expected,) = requests(opening, 1)
    assert sent.startswith(b"GET /ws HTTP/1.1\r\nHost: server:80\r\n")
    assert sent.endswith(END)
    return sent, expected


def test_keys_go_round() -> None:
    opening = WebSocketOpening(TASK)
    some = requests(opening, 1)  # anywhere
    requests(opening, KEYS)
    first, second = (requests(opening, KEYS - 1) for _ in range(2))
    assert first == second
    sent, expected = requests(opening, 2)
    assert some[1][0] in {*first[1], *requests(opening, KEYS)[1]}
    keys = re.findall(rb"Sec-WebSocket-Key: (\S+)\r\n", first[0])
    assert len(set(keys)) == KEYS - 1
    assert first[1] == [b64encode(sha1(key + GUID).digest()) for key in keys]
    assert (sent, expected) == (first[0][: len(sent)], first[1][:2])
    assert requests(WebSocketOpening(TASK), 1) != requests(opening, 1)


@pytest.mark.parametrize(("more", "keys"), [(0, KEYS), (2000, None), (100_000, MOST)])
def test_requests_made_ahead_take_a_megabyte_or_are_a_burst(more: int, keys: int | None) -> None:
    opening = WebSocketOpening(TASK._replace(headers=(("X", "x" * more),)))
    sent, expected = requests(opening, opening.keys)
    assert len(set(expected)) == opening.keys == (keys or opening.keys)
    assert MOST <= opening.keys <= KEYS
    assert len(sent) <= MOST_BYTES or opening.keys == MOST
    assert keys or len(sent) + len(sent) // opening.keys > MOST_BYTES  # one more would not fit


# A server's answer in parts; KEY and OLD stand for the accept keys of this and of an earlier connection.
PARTS = (
    HEAD,
    END,
    b"KEY",
    b"OLD",
    b"\x81\x02hi",
    b"\r\nX: ",
    b"HTTP/1.1 503 Busy\r\n\r\n",
    b"\r\nSec-WebSocket-Accept: ",
    b"",
    b"\r\nConnection: close",
)


@given(st.lists(st.sampled_from(PARTS), max_size=7), st.lists(st.sampled_from(PARTS), max_size=7))
@example([], [b"KEY"])  # the accept key and nothing else
@example([HEAD, b"KEY", END], [HEAD, b"KEY", END])
@example([HEAD, b"KEY", END], [HEAD, b"OLD", END])
@example([HEAD, b"KEY", END, b"KEY"], [HEAD, b"KEY", END, b"KEY"])
@example([HEAD, b"KEY", b"\r\nX: ", b"KEY", END], [HEAD, b"OLD", b"\r\nX: ", b"KEY", END])
@example([HEAD, b"KEY", END, b"\x81\x02hi"], [HEAD, b"KEY", END, b"\x81\x02hi"])
@settings(max_examples=400, deadline=None)
def test_knowing_an_answer_changes_no_verdict(first: list[bytes], second: list[bytes]) -> None:
    knowing = WebSocketOpening(TASK)
    _, old = request(knowing)
    verdict(knowing, old, b"".join(part.replace(b"KEY", old).replace(b"OLD", b"x" * 28) for part in first))
    _, new = request(knowing)
    answer = b"".join(part.replace(b"KEY", new).replace(b"OLD", old) for part in second)
    assert verdict(knowing, new, answer) == verdict(WebSocketOpening(TASK), new, answer)


def test_an_old_accept_key_is_refused_and_a_new_one_taken() -> None:
    opening = WebSocketOpening(TASK)
    _, old = request(opening)
    assert verdict(opening, old, HEAD + old + END) == ("established", b"")
    for _ in range(3):
        _, new = request(opening)
        assert new != old
        assert verdict(opening, new, HEAD + old + END) == (
            causes.PROTOCOL,
            "101 with a wrong Sec-WebSocket-Accept",
        )
        assert verdict(opening, new, HEAD + new + END) == ("established", b"")


@pytest.mark.parametrize("known", [False, True])
def test_an_answer_in_pieces_with_a_frame_behind(known: bool) -> None:
    opening = WebSocketOpening(TASK)
    if known:
        _, key = request(opening)
        verdict(opening, key, HEAD + key + END)
    _, key = request(opening)
    answer = HEAD + key + END + b"\x81\x02hi"
    for at in range(1, len(answer) - 4):
        got = verdict(opening, key, answer[:at], answer[at:])
        assert got == ("established", answer[max(at, len(answer) - 4) :])
    pieces = [answer[i : i + 1] for i in range(len(answer))]
    assert verdict(opening, key, *pieces) == ("established", b"")


def test_a_refusal_is_no_connection() -> None:
    opening = opening_for(TASK)
    _, key = request(opening)
    assert verdict(opening, key, b"HTTP/1.1 503 Busy\r\n\r\n") == (causes.REJECTED, "503 Busy")
    assert verdict(opening, key, b"SSH-2.0-OpenSSH_9\r\n") == (causes.PROTOCOL, "the answer is not HTTP/1")


def test_given_headers_replace_the_defaults() -> None:
    opening = opening_for(TASK._replace(headers=(("host", "other"), ("Origin", "http://x"))))
    sent, _ = requests(opening, 1)
    assert sent.lower().count(b"\r\nhost:") == 1
    assert b"\r\nOrigin: http://x\r\n" in sent


def http(mode: str = "keepalive") -> Opening:
    opening = opening_for(TASK._replace(protocol="http", http_mode=mode))
    assert isinstance(opening, HttpOpening)
    return opening


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (OK, ("established", b"")),
        (OK[:-1], "waiting"),
        (OK + b"x", (causes.PROTOCOL, "bytes after the end of the response")),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", (causes.REJECTED, "404 Not Found")),
        (
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            (causes.PROTOCOL, "the server closes after its response: no keep-alive"),
        ),
        (b"\x16\x03\x01", (causes.PROTOCOL, "the answer is not HTTP/1")),
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_keep_alive(answer: bytes, expected: object, known: bool) -> None:
    opening = http()
    request(opening)
    if known:
        assert verdict(opening, b"", OK) == ("established", b"")
    assert verdict(opening, b"", answer) == expected


def test_a_stream_is_established_by_its_head() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert verdict(http("stream"), b"", head) == ("established", b"")
    assert verdict(http("stream"), b"", head[:-1]) == "waiting"
    got = verdict(http("stream"), b"", OK)
    assert isinstance(got, tuple)
    assert got[0] == causes.PROTOCOL


def test_who_waits_for_no_answer() -> None:
    assert not http("longpoll").answers
    tcp = opening_for(TASK._replace(protocol="tcp"))
    assert isinstance(tcp, TcpOpening)
    assert not tcp.answers
    assert requests(tcp, 2) == (b"", [b"", b""])
