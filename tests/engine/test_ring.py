"""io_uring as it answers here, against real sockets."""

import errno
import os
import resource
import select
import socket
import subprocess
import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import servers
from connprobe import causes, uring
from connprobe.engine import counters
from connprobe.engine.bursts import MOST, UNTOLD
from connprobe.engine.ring import MARKED, Ring, _is_late, _outcome
from connprobe.engine.sources import sockaddr
from netns import network_namespace
from servers import OddServer

Run = Callable[..., Any]  # see conftest.py
REQUEST = b"GET / HTTP/1.1\r\nHost: server\r\n\r\n"
SOURCE = sockaddr("127.7.0.1", 0)


class Opened:
    """A ring to one target, and what it opened."""

    def __init__(self, target: tuple[Any, ...], *, source: bytes = SOURCE, request: bytes = REQUEST) -> None:
        self.fds: list[int] = []
        self.epoll = select.epoll()
        self.family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        self.source, self.request = source, request
        self.ring: Ring | None = None
        try:
            to = sockaddr(target[0], target[1])
            self.ring = Ring(self.family, to, len(request), self.epoll.fileno(), binds=bool(source))
        except OSError as error:
            self.close()
            if error.errno in (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP):
                pytest.skip(f"this kernel has no io_uring for sockets (6.11), or forbids it: {error}")
            raise

    def open(self, number: int, **options: Any) -> list[int]:
        """The outcomes."""
        assert self.ring is not None
        fds, outcomes = self.ring.open(self.request * number, [self.source] * number, **options)
        self.fds += [fd for fd in fds if fd >= 0]
        return [len(self.request)] * len(fds) if outcomes is None else outcomes

    def let_go(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()

    def close(self) -> None:
        if self.ring is not None:
            self.ring.close()
        self.let_go()
        self.epoll.close()


@pytest.fixture
def opened() -> Iterator[Callable[..., Opened]]:
    with ExitStack() as closing:

        def make(target: tuple[Any, ...], **options: Any) -> Opened:
            made = Opened(target, **options)
            closing.callback(made.close)
            return made

        yield make


@contextmanager
def descriptors(more: int) -> Iterator[None]:
    """Room for so many more than are open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as holes:  # the limit is on numbers, and lower ones may be free
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
        while (fd := os.dup(0)) < highest:
            holes.callback(os.close, fd)
        os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (fd + more, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_each_is_bound_connected_sent_and_watched(opened: Any, listener: socket.socket) -> None:
    made = opened(listener.getsockname())
    assert made.open(23) == [len(REQUEST)] * 23
    for _ in range(23):
        sock, (address, _) = listener.accept()
        with sock:
            assert address == "127.7.0.1"
            assert sock.recv(4096) == REQUEST
            sock.sendall(b"answer")
    assert sorted(fd for fd, _ in made.epoll.poll(5, 64)) == sorted(made.fds)
    assert {os.read(fd, 64) for fd in made.fds} == {b"answer"}
    assert not any(os.get_inheritable(fd) or os.get_blocking(fd) for fd in made.fds)


@pytest.mark.parametrize("number", [1, MARKED, MARKED + 1, MOST])
def test_of_a_burst_some_are_told_of_and_once(opened: Any, listener: socket.socket, number: int) -> None:
    made = opened(listener.getsockname())
    assert made.open(number, mark=True) == [len(REQUEST)] * number
    marks = set(made.ring.marks)
    assert marks == set(made.fds[::-MARKED])
    with ExitStack() as closing:
        theirs = [closing.enter_context(listener.accept()[0]) for _ in range(number)]
        for sock in theirs:
            sock.sendall(b"answer")
        told: list[int] = []
        while len(told) < len(marks):
            told += [fd for fd, _ in made.epoll.poll(5, 256)]
        assert sorted(told) == sorted(marks)
        assert made.epoll.poll(0.05, 256) == []
        assert made.ring.read_and_watch(made.fds, 3) == ([3] * number, b"ans" * number, [0] * number)
        assert {fd for fd, _ in made.epoll.poll(5, 256)} == set(made.fds)
        assert {fd for fd, _ in made.epoll.poll(5, 256)} == set(made.fds)  # and again
        assert made.open(2) == [len(REQUEST)] * 2  # no mark is left
        assert (made.ring.marks, made.epoll.poll(0, 256)[number:]) == ((), [])


@pytest.mark.parametrize("mark", [False, True])
def test_who_cannot_be_watched(opened: Any, listener: socket.socket, mark: bool) -> None:
    with socket.socket() as no_epoll:
        made = opened(listener.getsockname())
        made.ring.close()
        to = sockaddr(*listener.getsockname())
        made.ring = Ring(made.family, to, len(REQUEST), no_epoll.fileno(), binds=True)
        assert made.open(40, mark=mark) == [-errno.EINVAL] * 40
        assert not made.ring.marks


def test_answers_are_read_at_once(opened: Any, listener: socket.socket) -> None:
    """Those that are there, as much as is asked for; of the others what is wrong."""
    made = opened(listener.getsockname())
    assert made.ring is not None
    assert made.open(6) == [len(REQUEST)] * 6
    with ExitStack() as closing:
        theirs = [closing.enter_context(listener.accept()[0]) for _ in range(6)]
        assert {sock.recv(4096) for sock in theirs} == {REQUEST}
        by_port = {sock.getpeername()[1]: sock for sock in theirs}
        mine = [closing.enter_context(socket.socket(fileno=os.dup(fd))) for fd in made.fds]
        right, longer, shorter, _, closed, reset = (by_port[sock.getsockname()[1]] for sock in mine)
        closed.close()
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, servers.RESET)
        reset.close()
        for last in (-errno.ECONNRESET, 0):  # which is told once
            right.sendall(b"answer-0")
            longer.sendall(b"answer-1 and more")
            shorter.sendall(b"ans")
            while len(made.epoll.poll(5, 64)) < 5:
                os.sched_yield()
            sizes, data = made.ring.read(made.fds[:6], 8)
            assert sizes == [8, 8, 3, -errno.EAGAIN, 0, last]
            assert data[:19] == b"answer-0answer-1ans"
            assert os.read(made.fds[1], 64) == b" and more"
            made.open(3)  # of what is prepared for reads it leaves all


def test_answers_are_read_after_others_were_cancelled(opened: Any) -> None:
    """Both use the same entries of the ring."""
    with socket.create_server(("127.0.0.1", 0), backlog=20) as listener:
        listener.settimeout(10)
        made = opened(listener.getsockname())
        assert made.ring is not None
        assert made.open(7) == [len(REQUEST)] * 7
        assert made.ring.read(made.fds, 4)[0] == [-errno.EAGAIN] * 7
        outcomes = made.open(30)
        assert outcomes.count(-errno.EINPROGRESS) == 16  # backlog + 1 wait
        assert made.ring.read(made.fds[:21], 4)[0] == [-errno.EAGAIN] * 21


def test_a_ring_that_fails_half_way_tells_what_was_done(
    opened: Any, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = opened(listener.getsockname())
    assert made.ring is not None
    assert made.open(4) == [len(REQUEST)] * 4
    with ExitStack() as closing:
        for _ in range(4):
            closing.enter_context(listener.accept()[0]).sendall(b"answer")
        while len(made.epoll.poll(5, 64)) < 4:
            os.sched_yield()
        fail_after(2, monkeypatch)
        sizes, data = made.ring.read(made.fds, 6)
        assert sorted(sizes) == [-errno.EAGAIN] * 2 + [6, 6]
        assert data[:12] == b"answer" * 2
        with pytest.raises(OSError, match="Input/output error"):
            made.ring.read(made.fds, 6)
        assert [os.read(fd, 64) for fd in made.fds[2:]] == [b"answer"] * 2


@pytest.mark.parametrize("taken", [0, 3, 7, 8])
def test_sockets_are_not_left_when_the_ring_fails(
    opened: Any, listener: socket.socket, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    made = opened(listener.getsockname())
    before = sorted(Path("/proc/self/fd").iterdir())
    fail_after(taken, monkeypatch)
    with pytest.raises(OSError, match="temporarily unavailable"):
        made.open(8)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_a_burst_that_cannot_be_watched_to_the_end(
    opened: Any, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = opened(listener.getsockname())
    assert made.open(8, mark=True) == [len(REQUEST)] * 8
    fail_after(3, monkeypatch)
    with pytest.raises(OSError, match="Input/output error"):
        made.ring._watch_all(array("I", made.fds), [0])


@pytest.mark.parametrize("done", [2, 4, 7])
def test_a_batch_whose_ring_fails_half_way(
    opened: Any, listener: socket.socket, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    made = opened(listener.getsockname())
    assert made.open(5, mark=True) == [len(REQUEST)] * 5
    with ExitStack() as closing:
        for _ in range(5):
            closing.enter_context(listener.accept()[0]).sendall(b"answer")
        while not made.epoll.poll(5, 64):
            os.sched_yield()
        fail_after(done, monkeypatch)
        sizes, data, watched = made.ring.read_and_watch(made.fds, 6)
        assert sizes == [6] * min(done, 5) + [-errno.EAGAIN] * (5 - done)
        assert data.startswith(b"answer" * min(done, 5))
        assert watched == [0] * (done - 5) + [UNTOLD] * min(5, 10 - done)


def fail_after(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ring takes so many of the next ones, and no more."""
    called, left = uring._called, [entries]

    def few(number: int, fd: int, entries: int, *rest: Any) -> int:
        if number != uring._ENTER:
            return called(number, fd, entries, *rest)
        if not left:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return called(number, fd, left.pop(), *rest)

    monkeypatch.setattr(uring, "_called", few)


def test_the_kernel_chooses_the_address_and_ipv6(opened: Any) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        made = opened(listener.getsockname(), source=b"")
        assert made.open(7) == [len(REQUEST)] * 7
        bound = opened(listener.getsockname(), source=sockaddr("::1", 0))
        assert bound.open(5) == [len(REQUEST)] * 5
        for _ in range(12):
            sock, peer = listener.accept()
            with sock:
                assert (peer[0], sock.recv(4096)) == ("::1", REQUEST)


@pytest.mark.parametrize("mark", [False, True])
def test_rings_go_round_while_somebody_holds_the_lock_of_the_epoll(
    opened: Any, listener: socket.socket, monkeypatch: pytest.MonkeyPatch, mark: bool
) -> None:
    made = opened(listener.getsockname())
    done = threading.Event()
    waited, results = [], Ring._results

    def counted(ring: Ring, *values: Any) -> list[int]:
        waited.append(True)
        return results(ring, *values)

    monkeypatch.setattr(Ring, "_results", counted)
    path = Path(f"/proc/self/fdinfo/{made.epoll.fileno()}")

    def look() -> None:
        while not done.is_set():
            path.read_text()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for turn in range(2000):
            if turn > 3001 // MOST and waited:  # 9,000 completions: more than four times what the ring holds
                break
            assert made.open(101, mark=mark) == [len(REQUEST)] * 101
            assert len(made.ring.marks) == mark * 4
            for _ in range(101):
                with listener.accept()[0] as sock:
                    sock.sendall(b"answer")
            if mark:
                alike = [6] * 101, b"answer" * 101, [0] * 101
                assert made.ring.read_and_watch(made.fds, 6) == alike
            assert len({fd for fd, _ in made.epoll.poll(5, 256)}) > 0
            made.let_go()
    finally:
        done.set()
        looking.join()
    assert waited


def test_refused(opened: Any, listener: socket.socket) -> None:
    made = opened(listener.getsockname())
    listener.close()
    for _ in range(3):
        assert made.open(MOST) == [-errno.ECONNREFUSED] * MOST


@pytest.mark.parametrize("mark", [False, True])
def test_who_gets_no_answer_is_still_connecting(opened: Any, mark: bool) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=2) as listener:
        made = opened(listener.getsockname())
        sent = [len(REQUEST)] * 3 + [-errno.EINPROGRESS] * 8  # backlog + 1
        assert made.open(11, mark=mark) == sent
        assert not made.ring.marks
        watched = Path(f"/proc/self/fdinfo/{made.epoll.fileno()}").read_text().splitlines()
        events = [int(line.split()[3], 16) for line in watched if line.startswith("tfd:")]
        assert len(events) == 11
        assert not any(each & select.EPOLLONESHOT for each in events)  # as the mark was
        listener.settimeout(10)
        for _ in range(3):
            listener.accept()[0].close()
        late = made.fds[3]
        made.epoll.modify(late, select.EPOLLOUT)
        for fd in made.fds[:3]:  # closed
            made.epoll.unregister(fd)
        assert (late, select.EPOLLOUT) in made.epoll.poll(10)  # once SYN is sent again
        assert os.write(late, REQUEST) == len(REQUEST)


@pytest.mark.parametrize("mark", [False, True])
def test_no_descriptors_are_left(opened: Any, listener: socket.socket, mark: bool) -> None:
    made = opened(listener.getsockname())
    with descriptors(5):
        assert made.open(9, mark=mark) == [len(REQUEST)] * 5 + [-errno.EMFILE] * 4
        assert not made.ring.marks
        with pytest.raises(OSError, match="Too many open files"):
            Ring(made.family, b"", 1, made.epoll.fileno(), binds=False)


def test_a_source_that_is_not_of_this_host(opened: Any, listener: socket.socket) -> None:
    made = opened(listener.getsockname(), source=sockaddr("192.0.2.7", 0))
    assert made.open(17) == [-errno.EADDRNOTAVAIL] * 17


def test_no_source_port_is_left(opened: Any) -> None:
    with network_namespace():
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(
            "20002 20007"
        )  # connect(2) leaves out the last of an odd number
        with socket.create_server(("127.0.0.1", 7000)) as listener:
            made = opened(listener.getsockname())
            assert made.open(9) == [len(REQUEST)] * 6 + [-errno.EADDRNOTAVAIL] * 3
            made.close()
            made.ring = None


@pytest.mark.parametrize(
    ("behaviour", "failures"),
    [
        (servers.websocket, {}),
        (servers.byte_by_byte, {}),
        (servers.close_at_once, {causes.EOF: 97}),
        (servers.wrong_accept_key, {causes.PROTOCOL: 97}),
        (servers.answering(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), {causes.REJECTED: 97}),
        (servers.mute, {causes.TIMEOUT: 97}),
    ],
)
def test_whatever_is_answered(run: Run, behaviour: servers.Behaviour, failures: dict[str, int]) -> None:
    with OddServer(behaviour) as server:
        worker = run(share=97, target=("127.0.0.1", server.port), protocol="ws", timeout_s=1.0)
        totals = worker.until(lambda totals: totals.established + totals.failed == 97)
        assert (totals.failures, totals.held) == (failures, 97 - sum(failures.values()))
        if totals.ring_opened:
            assert totals.ring_opened > 90  # all that began many at a time
        worker.tell("quit")
        worker.hear()


def test_reset_before_an_answer(run: Run) -> None:
    with OddServer(servers.reset_at_once) as server:
        worker = run(share=97, target=("127.0.0.1", server.port), protocol="ws")
        totals = worker.until(lambda totals: totals.failed == 97)
        assert totals.failures == {causes.RESET: 97}


def test_nobody_listens_to_a_worker(run: Run, listener: socket.socket) -> None:
    target = listener.getsockname()
    listener.close()
    worker = run(share=101, target=target, protocol="ws")
    assert worker.until(lambda totals: totals.failed == 101).failures == {causes.REFUSED: 101}
    worker.tell("quit")
    assert worker.hear() == ("ended", {causes.REFUSED: {"ECONNREFUSED: Connection refused": 101}}, {})


def test_where_handshakes_take_their_time_the_ring_is_given_up(run: Run) -> None:
    """The queue is full, as a far server would seem: what is cancelled in the ring is established later."""
    with socket.create_server(("127.0.0.1", 0), backlog=2) as listener, ExitStack() as closing:
        listener.settimeout(10)
        worker = run(share=48, target=listener.getsockname(), protocol="http", concurrency=48)
        worker.until(lambda totals: totals.in_flight == 48)
        listener.listen(64)  # there is room when SYN comes again
        for _ in range(48):
            sock = closing.enter_context(listener.accept()[0])
            sock.settimeout(10)
            assert sock.recv(4096).endswith(b"\r\n\r\n")
            sock.sendall(servers.OK)
        totals = worker.until(lambda totals: totals.held == 48)
        assert totals.failures == {}
        assert totals.ring_opened in (48, 0)
        assert not worker.worker.flights.bursts.serves
        assert worker.counted(counters.RING_OPENED) == totals.ring_opened
        worker.tell("quit")
        with suppress(OSError):
            worker.hear()


@pytest.mark.parametrize("connected", [-errno.ECONNRESET, -errno.EPIPE])
def test_a_reset_behind_the_answer_is_no_connection_that_failed(connected: int) -> None:
    """Its connect was woken by it, after the request had gone."""
    assert _outcome(0, connected, 20, 0) == 20
    assert _is_late(connected, 20)
    assert _outcome(0, connected, -errno.EPIPE, 0) == connected
    assert not _is_late(connected, -errno.EPIPE)
    assert not _is_late(-errno.ECANCELED, 20)
    assert not _is_late(0, 20)
