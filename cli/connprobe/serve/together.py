"""New connections that all ask for the same, read and answered many at a time by io_uring."""

from array import array
from collections.abc import Sequence

from connprobe import uring
from connprobe.uring import EVENT_FD, EVENT_WORDS, WORDS, Uring

LEAST, MOST = 8, 64  # connections; for fewer it is not worth it
LONGEST = 512  # of a request, and of an answer
_EVENTS_AT = MOST * LONGEST
_SENDS_AT = MOST  # entries: reads, then for each connection a send and its epoll_ctl
_ENTRIES = 3 * MOST


class Together(Uring):
    """Raises OSError where the kernel has no io_uring, forbids it, or has too little of it."""

    def __init__(self, epoll_fd: int) -> None:
        super().__init__(_ENTRIES, _EVENTS_AT + MOST * EVENT_WORDS * 4, uring.EPOLL_CTL)
        self._epoll_fd = epoll_fd
        self._prepared = 0  # for answers of that length
        self._events = memoryview(self.memory).cast("I")[_EVENTS_AT // 4 :]
        self._events[::EVENT_WORDS] = array("I", [uring.EPOLLIN] * MOST)

    def read(self, fds: Sequence[int], length: int) -> tuple[list[int], bytes]:
        """(bytes read from each, or -errno; all of it, that of each from its index times `length` on)."""
        return self.read_at_once(fds, length, entries=0, most=MOST, place=0)

    def answer(self, fds: Sequence[int], answers: bytes) -> list[tuple[int | None, int | None]]:
        """Sends each its answer, which are of one length, and has epoll watch it for input.

        Gives of each (bytes that were sent or -errno, 0 where epoll watches it or -errno); None: not tried,
        as the ring has failed.
        """
        number = len(fds)
        length = len(answers) // number
        if self._prepared != length:
            self._prepare(length)
        self.memory[: len(answers)] = answers
        begin, end, size = _SENDS_AT * WORDS, (_SENDS_AT + 2 * number) * WORDS, 2 * WORDS
        descriptors = array("I", fds)
        self.fields[begin + uring.FD : end : size] = descriptors
        self.fields[begin + WORDS + uring.OFFSET : end : size] = descriptors
        self._events[EVENT_FD : number * EVENT_WORDS : EVENT_WORDS] = descriptors
        outcomes: list[int | None] = [None] * (2 * number)
        for data, result in uring.parsed(self.done((_SENDS_AT, 2 * number))):
            outcomes[data] = result
        return list(zip(outcomes[::2], outcomes[1::2], strict=True))

    def _prepare(self, length: int) -> None:
        self._prepared = length
        for slot in range(MOST):
            entry, event = _SENDS_AT + 2 * slot, self.base + _EVENTS_AT + slot * EVENT_WORDS * 4
            self.write(
                entry,
                2 * slot,
                opcode=uring.SEND,
                address=self.base + slot * length,
                length=length,
                operation=uring.AT_ONCE,
            )
            self.write(
                entry + 1,
                2 * slot + 1,
                opcode=uring.EPOLL_CTL,
                fd=self._epoll_fd,
                address=event,
                length=uring.EPOLL_CTL_ADD,
            )
