"""What is said on connections that come to say it and go: messages one after another, then goodbye.

Its entries are those of connections that are open now, at most as many as the concurrency.
"""

import select
import time

from connprobe import causes
from connprobe.engine.held import HeldSet, Lost
from connprobe.engine.messages import Exchange
from connprobe.engine.talk import Awaited, Talk, WebSocketTalk, masks
from connprobe.engine.tally import Tally
from connprobe.wire.websocket import CLOSE, close_payload, frame

RIGHT, WRONG = "all was answered", "another answer came"  # causes of Lost that are no failures
_GOODBYE = close_payload(1000)
_GOODBYE_BACK = frame(CLOSE, _GOODBYE)


class Visits(Exchange):
    def __init__(
        self,
        held: HeldSet,
        epoll: select.epoll,
        talk: Talk,
        *,
        messages: int,
        websocket: bool,
        timeout_s: float,
        tally: Tally,
    ) -> None:
        super().__init__(held, epoll, talk, timeout_s=timeout_s, tally=tally)
        self._says, self._messages, self._websocket = talk, messages, websocket
        self._left: dict[int, int] = {}  # messages to be answered
        self._parting: dict[int, str] = {}  # a close frame was sent: RIGHT or WRONG
        self._masks = masks()
        self._spoke_first: set[int] = set()  # servers that said something of their own with the handshake

    def __contains__(self, fd: int) -> bool:
        return fd in self._left

    def begin(self, fd: int) -> None:
        """This connection was just established. Raises Lost, with RIGHT where there is nothing to say."""
        self._left[fd] = self._messages
        if fd in self._spoke_first:
            self._tally.messages_wrong += 1
            self._part(fd, WRONG)
        elif self._messages:
            self._say(fd)
        else:
            self._part(fd, RIGHT)

    def came(self, fd: int, data: bytes) -> bool:
        """Raises Lost, with RIGHT or WRONG where that was the last answer of this connection."""
        awaited = self._waiting.get(fd)
        if awaited is None:
            self._spoke_first.add(fd)
            return True
        if fd in self._parting:
            if self._parting[fd] == RIGHT:  # one echo too many
                self._tally.messages_wrong += 1
                self._parting[fd] = WRONG
            return True
        right = self._says.answered(awaited, data)
        if right is None:
            return True
        if right:
            self._answered(fd, awaited)
        else:  # what would follow proves nothing
            self._end(fd)
            self._tally.messages_wrong += 1
            self._part(fd, WRONG)
        return True

    def known(self, fd: int, data: bytes) -> bool:
        awaited = self._waiting.get(fd)
        if awaited is None or data != awaited.expected:
            return False
        self.close_came(fd)
        self._answered(fd, awaited)
        return True

    def _answered(self, fd: int, awaited: Awaited) -> None:
        self._end(fd)
        self._tally.message(int((time.monotonic() - awaited.began) * 1e6))
        self._left[fd] -= 1
        if self._left[fd]:
            self._say(fd)
        else:
            self._part(fd, RIGHT)

    def close_came(self, fd: int) -> None:
        if fd in self._parting:
            raise Lost(self._parting[fd], "")

    def tick(self, now: float) -> list[tuple[int, Lost]]:
        lost = []
        for fd, oldest in self._overdue(now):
            what = "the close frame" if fd in self._parting else "a message"
            how = "was not taken" if oldest.unsent else "was not answered"
            lost.append((fd, Lost(causes.TIMEOUT, f"{what} {how}")))
            del self._waiting[fd]
        return lost

    def lost(self, fd: int) -> None:
        super().lost(fd)
        self._left.pop(fd, None)
        self._parting.pop(fd, None)
        self._spoke_first.discard(fd)

    def parting(self, fd: int) -> str | None:
        """RIGHT or WRONG: its messages are over, and the server has not said goodbye yet."""
        return self._parting.get(fd)

    def wrong(self) -> list[int]:
        """Those that wait for the server's goodbye after a wrong answer."""
        return [fd for fd, how in self._parting.items() if how == WRONG]

    def _say(self, fd: int) -> None:
        self._tally.messages_sent += 1
        talk, number = self._says, self._messages - self._left[fd]
        message, last = talk.message(number), self._left[fd] == 1
        expected = talk.expected(number) if isinstance(talk, WebSocketTalk) else None
        self._send(fd, Awaited(time.monotonic(), message, number, last=last, expected=expected))

    def _part(self, fd: int, how: str) -> None:
        """RFC 6455, section 7.1.1: the client waits for the server's close frame, and for it to close."""
        if not self._websocket:
            raise Lost(how, "")
        self._parting[fd] = how
        goodbye = frame(CLOSE, _GOODBYE, next(self._masks))
        self._send(fd, Awaited(time.monotonic(), goodbye, expected=_GOODBYE_BACK))
