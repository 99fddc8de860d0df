"""One connection that requests are written to without waiting for answers, and the answers that come.

Requests are all alike, so what is written is a window on one repeated text: nothing is kept for a request.
"""

import fcntl
import select
import socket
import struct
import termios
from collections import Counter

from connprobe.errors import ProtocolViolation
from connprobe.wire.http import ResponseReader

LARGEST_WRITE = 1 << 16
LARGEST_READ = 1 << 14
READS = 16  # at one go: a server that answers without end must not keep us from all else
NUMBER = "connprobe-number"  # in an answer: the place of its request on the connection, from 1


class Pipeline:
    """Connects at once. Raises OSError.

    sent_bytes: that the kernel took. answers: complete ones. statuses: of them. disordered: answers that
    name another place than theirs; None: none named one. over: why nothing more can be sent or received.
    """

    def __init__(self, family: int, address: tuple[str | int, ...], request: bytes, timeout_s: float) -> None:
        self.sent_bytes = self.answers = self.answer_bytes = 0
        self.statuses: Counter[int] = Counter()
        self.disordered: int | None = None
        self.over: str | None = None
        self.request_bytes = len(request)
        self._text = memoryview(request * max(2, -(-LARGEST_WRITE // len(request)) + 1))
        self._reader = ResponseReader()
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(timeout_s)
            self._socket.connect(address)
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.local: tuple[str, int] = self._socket.getsockname()[:2]
            self.peer: tuple[str, int] = self._socket.getpeername()[:2]
        except BaseException:
            self._socket.close()
            raise

    @property
    def sent(self) -> int:
        """Whole requests that the kernel took."""
        return self.sent_bytes // self.request_bytes

    def write(self, most_bytes: int) -> int:
        """Bytes that the kernel took of the next requests; 0: it takes none now."""
        if self.over is not None:
            return 0
        at = self.sent_bytes % self.request_bytes
        try:
            taken = self._socket.send(self._text[at : at + min(most_bytes, LARGEST_WRITE)])
        except BlockingIOError:
            return 0
        except OSError as error:
            self.receive()  # what it said before it went
            self.over = self.over or _lost(error)
            return 0
        self.sent_bytes += taken
        return taken

    def complete(self) -> bool:
        """Writes the rest of a request that the kernel took in part. True: none is cut."""
        cut = -self.sent_bytes % self.request_bytes
        return cut == 0 or self.write(cut) == cut

    def receive(self) -> bool:
        """Takes what has come. True: something has."""
        before = self.answers, self.answer_bytes
        for _ in range(READS):
            if self.over is not None:
                break
            try:
                data = self._socket.recv(LARGEST_READ)
            except BlockingIOError:
                break
            except OSError as error:
                self.over = _lost(error)
                break
            self.answer_bytes += len(data)
            try:
                self._take(data)
            except ProtocolViolation as error:
                self.over = f"the server broke HTTP: {error}"
        return (self.answers, self.answer_bytes) != before

    def wait(self, most_s: float, *, writable: bool = False) -> None:
        """Until something comes (or the kernel takes more), at most so long."""
        events = select.POLLIN | (select.POLLOUT if writable else 0)
        asked = select.poll()
        asked.register(self._socket, events)
        asked.poll(max(0.0, most_s) * 1000)

    def unacknowledged_bytes(self) -> int:
        """Sent, and not yet in the peer's socket (SIOCOUTQ). OSError: the socket is no longer connected."""
        (waiting,) = struct.unpack("i", fcntl.ioctl(self._socket, termios.TIOCOUTQ, b"\0\0\0\0"))
        return int(waiting)

    def close(self) -> None:
        self._socket.close()

    def _take(self, data: bytes) -> None:
        if not data:
            begun = self._reader.head is not None
            if begun:
                self._reader.eof()
                self._answered()
            self.over = self.over or "the server closed the connection"
            return
        self._reader.feed(data)
        while self._reader.complete:
            rest = self._reader.excess
            if not self._answered():
                return
            if rest:
                self._reader.feed(rest)

    def _answered(self) -> bool:
        """Counts the answer that is complete. False: it was the last one of the connection."""
        head = self._reader.head
        assert head is not None
        if self.answers * self.request_bytes >= self.sent_bytes:
            raise ProtocolViolation("an answer that nothing was asked for")
        self.answers += 1
        self.statuses[head.status] += 1
        number = head.headers.get(NUMBER)
        if number is not None:
            self.disordered = (self.disordered or 0) + (number != str(self.answers))
        if not self._reader.keep_alive:
            self.over = f"the server ended the connection with its answer {self.answers:,} ({head.status})"
            return False
        self._reader = ResponseReader()
        return True


def _lost(error: OSError) -> str:
    reset = isinstance(error, ConnectionResetError | BrokenPipeError)
    return "the server reset the connection" if reset else f"the connection was lost: {error.strerror}"
