"""One process of the embedded server: an epoll loop on its own SO_REUSEPORT listener.

An idle connection costs a byte. Answers that do not fit the socket buffer wait in `unsent`, and a
connection that has one is not read until it is gone, so that a slow reader costs bounded memory.
"""

import ctypes
import errno
import marshal
import os
import select
import socket
import time
from typing import Any

from connprobe.serve import task as columns
from connprobe.serve.protocol import Conversation, Frames, Http, Tcp, Upgrades
from connprobe.serve.steering import steer
from connprobe.serve.task import Task
from connprobe.serve.together import LEAST, LONGEST, MOST, Together

ACCEPTS_PER_TURN = MOST
FREE, FRESH, OPEN = 0, 1, 2  # FRESH: nothing was answered yet
READ_BYTES = 16384  # of one connection in one turn
PAUSE_S = 0.1  # before accepting again, after descriptors ran out
# accept(2) of the socket module makes a string of each address, and leaves O_NONBLOCK to another system call.
# PyDLL: the listener does not wait, so nobody waits for the interpreter.
_accept4, _ACCEPT_FLAGS = (
    ctypes.PyDLL(None, use_errno=True).accept4,
    int(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC),
)
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


class Server:
    def __init__(self, task: Task, row: memoryview, control: socket.socket, context: Any) -> None:
        self.task, self.row, self.control = task, row, control
        self.epoll = select.epoll()
        self.listener = socket.socket(task.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.state = bytearray(1 << 16)
        self.conversations: dict[int, Conversation] = {}
        self.unsent: dict[int, tuple[bytes, bool]] = {}  # (data, whether to close after it)
        self.sessions: dict[int, Any] = {}  # fd -> ssl.SSLSocket
        self.shaking: set[int] = set()
        self.accepted = self.open = self.failed = self.shed = 0
        self.resume_at: float | None = None
        self.context = context
        self.upgrades = Upgrades()
        self.learns = task.protocol == "ws" and task.mode != "stream"
        self.together: Together | None = None
        self.tries_together = self.learns and context is None

    def listen(self) -> None:
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.listener.bind(self.task.address)
        self.listener.listen(self.task.backlog)
        if self.task.steers:
            steer(self.listener, self.task.steers)
        self.row[columns.LISTENING] = self.listener.getsockname()[1]
        self.epoll.register(self.listener.fileno(), select.EPOLLIN)

    def run(self) -> None:
        self.control.setblocking(False)
        control_fd, listener_fd = self.control.fileno(), self.listener.fileno()
        self.epoll.register(control_fd, select.EPOLLIN)
        while True:
            self._publish()
            patience = 1.0 if self.resume_at is None else max(0.0, self.resume_at - time.monotonic())
            for fd, events in self.epoll.poll(patience, 512):
                if fd == listener_fd:
                    self._accept()
                elif fd == control_fd:
                    if self._told_to_quit():
                        self._publish()
                        return
                elif fd in self.unsent and events & select.EPOLLOUT:
                    self._flush(fd)
                elif self.state[fd]:
                    self._receive(fd)
            if self.resume_at is not None and time.monotonic() >= self.resume_at:
                self.resume_at = None
                self.epoll.modify(listener_fd, select.EPOLLIN)

    def _accept(self) -> None:
        fds: list[int] = []
        self._take(fds)
        self._greet(fds)

    def _take(self, fds: list[int]) -> None:
        """As many as wait, and may be taken in one turn."""
        listener_fd, state = self.listener.fileno(), self.state
        for _ in range(ACCEPTS_PER_TURN):
            fd = _accept4(listener_fd, None, None, _ACCEPT_FLAGS)
            if fd < 0:
                if ctypes.get_errno() in _EXHAUSTED:
                    self.shed += 1
                    self.resume_at = time.monotonic() + PAUSE_S
                    self.epoll.modify(listener_fd, 0)
                return
            self.accepted += 1
            self.open += 1
            if fd >= len(state):
                state.extend(bytes(len(state)))
            state[fd] = FRESH
            fds.append(fd)

    def _greet(self, fds: list[int]) -> None:
        if len(fds) >= LEAST and (read := self._read_together(fds)) is not None:
            self._answer_together(fds, *read)
            return
        watch = self.epoll.register
        for fd in fds:
            if self.context is not None:
                self._wrap(fd)
            watch(fd, select.EPOLLIN)
            if self.task.protocol == "tcp" and self.task.mode == "stream":
                self._send(fd, b"welcome\n", False)
            elif self.context is None and self.task.protocol != "tcp":
                self._receive(fd)  # on a quick network the request is there already

    def _read_together(self, fds: list[int]) -> tuple[list[int], bytes] | None:
        """As long a request of each as those before were. None: it cannot be done, and nothing was read."""
        length = self.upgrades.lengths[0]
        if not self.tries_together or max(self.upgrades.lengths) not in range(LONGEST + 1):
            return None
        try:
            self.together = self.together or Together(self.epoll.fileno())
            return self.together.read(fds, length)
        except OSError as error:
            # An old kernel, seccomp, kernel.io_uring_disabled; or too little is left now.
            self.tries_together = error.errno in _EXHAUSTED
            if self.together is not None:
                self.together.close()
            self.together = None
            return None

    def _answer_together(self, fds: list[int], sizes: list[int], data: bytes) -> None:
        """Where the request of each is there, and like one before."""
        length, answer_length = self.upgrades.lengths
        answers = self.upgrades.answers(data) if sizes.count(length) == len(fds) else None
        if answers is None or self.together is None:
            self._receive_each(fds, sizes, data, length)
            return
        try:
            outcomes = self.together.answer(fds, answers)
        except OSError:  # it had failed as it read
            outcomes = [(None, None)] * len(fds)
        state = self.state
        for index, (fd, (sent, failed)) in enumerate(zip(fds, outcomes, strict=True)):
            state[fd] = OPEN
            if sent != answer_length or failed != 0:
                self._answer_again(
                    fd, answers[index * answer_length : (index + 1) * answer_length], sent, failed
                )

    def _answer_again(self, fd: int, answer: bytes, sent: int | None, failed: int | None) -> None:
        """What the ring has not done, or not the whole of it."""
        if failed is None:
            self.epoll.register(fd, select.EPOLLIN)
        if failed or (sent is not None and sent < 0 and sent != -errno.EAGAIN):
            self.state[fd] = FRESH  # so that it counts as failed
            self._close(fd)
        elif sent != len(answer):
            self._send(fd, answer[max(0, sent or 0) :], False)

    def _receive_each(self, fds: list[int], sizes: list[int], data: bytes, length: int) -> None:
        for index, (fd, size) in enumerate(zip(fds, sizes, strict=True)):
            self.epoll.register(fd, select.EPOLLIN)
            if size > 0:
                begun = data[index * length : index * length + size]
                longer = size == length and not begun.endswith(b"\r\n\r\n")
                if longer:  # whole it can be learnt
                    begun += self._read(fd, READ_BYTES) or b""
                self._received(fd, begun)
            elif size != -errno.EAGAIN:
                self._close(fd)

    def _wrap(self, fd: int) -> None:
        sock = socket.socket(self.task.family, socket.SOCK_STREAM, 0, fd)
        sock.setblocking(False)
        self.sessions[fd] = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self.shaking.add(fd)

    def _receive(self, fd: int) -> None:
        fresh = self.state[fd] == FRESH and fd not in self.conversations
        # One longer than those before is read in two: a buffer of READ_BYTES for each would cost more.
        most = self.upgrades.read_bytes if fresh and self.learns else READ_BYTES
        data = self._read(fd, most) if self.context is None else self._read_tls(fd)
        if data is None:
            return
        if not data:
            self._close(fd)
            return
        self._received(fd, data)

    def _received(self, fd: int, data: bytes) -> None:
        fresh = self.state[fd] == FRESH and fd not in self.conversations
        if fresh and (reply := self.upgrades.answer(data)) is not None:
            self.state[fd] = OPEN
            self._send(fd, reply, False)
        else:
            self._converse(fd, data)

    def _read(self, fd: int, most: int) -> bytes | None:
        """None: nothing is there yet. Empty: it is over."""
        try:
            return os.read(fd, most)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _read_tls(self, fd: int) -> bytes | None:
        session = self.sessions[fd]
        try:
            if fd in self.shaking:
                session.do_handshake()
                self.shaking.discard(fd)
                self.epoll.modify(fd, select.EPOLLIN)  # the handshake may have waited to write
            data: bytes = session.recv(READ_BYTES)
            while more := session.pending():
                data += session.recv(more)
        except OSError as error:
            kind = type(error).__name__
            if isinstance(error, BlockingIOError) or kind == "SSLWantReadError":
                return None
            if kind == "SSLWantWriteError":
                self.epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
                return None
            return b""
        return data

    def _converse(self, fd: int, data: bytes) -> None:
        known = self.conversations.pop(fd, None)
        fresh = known is None and self.learns and self.state[fd] == FRESH
        conversation = known or self._conversation(fd)
        answer, closing = conversation.received(data)
        if fresh and conversation.idle and not closing:
            self.upgrades.learn(data, answer)
        if not conversation.idle and not closing:
            self.conversations[fd] = conversation
        elif not closing:
            self.state[fd] = OPEN
        if answer or closing:
            self._send(fd, answer, closing)

    def _conversation(self, fd: int) -> Conversation:
        if self.task.protocol == "tcp":
            return Tcp(self.task.mode)
        if self.task.protocol == "ws" and self.state[fd] == OPEN:
            return Frames(self.task.mode)
        return Http(self.task.mode, self.task.protocol == "ws")

    def _send(self, fd: int, data: bytes, closing: bool) -> None:
        """Sends, or keeps what does not fit until the socket is writable; nothing is read meanwhile."""
        session = self.sessions.get(fd) if self.sessions else None
        try:
            sent = os.write(fd, data) if session is None else session.send(data)
        except OSError as error:
            if not isinstance(error, BlockingIOError) and type(error).__name__ != "SSLWantWriteError":
                self._close(fd)
                return
            sent = 0
        if sent < len(data):
            self.unsent[fd] = (data[sent:], closing)
            self.epoll.modify(fd, select.EPOLLOUT)
        elif closing:
            self._close(fd)

    def _flush(self, fd: int) -> None:
        self.epoll.modify(fd, select.EPOLLIN)
        self._send(fd, *self.unsent.pop(fd))

    def _close(self, fd: int) -> None:
        if self.state[fd] == FRESH and self.task.protocol != "tcp":
            self.failed += 1
        self.state[fd] = FREE
        self.open -= 1
        self.conversations.pop(fd, None)
        self.unsent.pop(fd, None)
        self.shaking.discard(fd)
        session = self.sessions.pop(fd, None)
        if session is None:
            os.close(fd)
        else:
            session.close()

    def _told_to_quit(self) -> bool:
        try:
            data = self.control.recv(1 << 12)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return not data or marshal.loads(data)[0] == "quit"

    def _publish(self) -> None:
        row = self.row
        row[columns.ACCEPTED], row[columns.OPEN] = self.accepted, self.open
        row[columns.FAILED], row[columns.SHED] = self.failed, self.shed


def prepare(task: tuple[Any, ...]) -> Any:
    """The TLS context of all processes, or None."""
    first = Task(*task)
    if first.certificate is None:
        return None
    from connprobe.serve.tls import server_context

    return server_context(first.certificate, first.key)


def run(task: tuple[Any, ...], row: memoryview, control: socket.socket, context: Any) -> None:
    server = Server(Task(*task), row, control, context)
    try:
        server.listen()
    except OSError as error:
        control.send(marshal.dumps(("refused", error.errno, os.strerror(error.errno or 0))))
        return
    control.send(marshal.dumps(("listening", server.row[columns.LISTENING])))
    server.run()
