"""WebSocket frames (RFC 6455, section 5) without a socket: bytes in, messages and control frames out.

Memory is bounded by `keep`, whatever lengths a peer declares: a payload that nobody asked for is
counted as it passes.
"""

from typing import NamedTuple

from connprobe.errors import ProtocolViolation

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

PROTOCOL_ERROR, INVALID_DATA, TOO_BIG = 1002, 1007, 1009

_MAX_CONTROL = 125


class FrameViolation(ProtocolViolation):
    """A peer broke the framing. `code`: the close code to answer with (1002, 1007 or 1009)."""

    def __init__(self, message: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(message, code)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[0])


class Event(NamedTuple):
    """One complete message (TEXT or BINARY, fragments joined) or one control frame.

    `payload`: unmasked; empty for a message that was only counted. Of a CLOSE it is the whole
    payload, code included, fit to be echoed. `size`: payload bytes, stored or not. `code`: of a
    CLOSE that names one.
    """

    opcode: int
    payload: bytes
    size: int
    code: int | None


def frame(opcode: int, payload: bytes = b"", mask: bytes | None = None, fin: bool = True) -> bytes:
    """One frame. `mask`: 4 random bytes, which a client must give and a server must not.

    Raises ValueError for what the RFC forbids to send.
    """
    if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
        raise ValueError(f"opcode {opcode} is reserved")
    size = len(payload)
    if opcode >= CLOSE and (size > _MAX_CONTROL or not fin):
        raise ValueError("a control frame has at most 125 bytes and no fragments")
    first = opcode | 0x80 if fin else opcode
    masked = 0 if mask is None else 0x80
    if size <= 125:
        head = bytes((first, masked | size))
    elif size < 1 << 16:
        head = bytes((first, masked | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, masked | 127)) + size.to_bytes(8, "big")
    return head + payload if mask is None else head + mask + apply_mask(payload, mask)


def apply_mask(payload: bytes, mask: bytes) -> bytes:
    """Mask or unmask: XOR with the 4 bytes of `mask`, repeated (RFC 6455, section 5.3)."""
    if len(mask) != 4:
        raise ValueError("a mask has 4 bytes")
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


def close_payload(code: int, reason: str = "") -> bytes:
    """The payload of a CLOSE. Raises ValueError for a code that may not be sent or too long a reason."""
    encoded = reason.encode()
    if not _may_be_sent(code) or len(encoded) > _MAX_CONTROL - 2:
        raise ValueError("no valid close code, or a reason over 123 bytes")
    return code.to_bytes(2, "big") + encoded


def _may_be_sent(code: int) -> bool:
    # RFC 6455, section 7.4, and IANA's registry for 1012 to 1014. 1004 to 1006 and 1015 are local.
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


class FrameReader:
    """Reads one direction of a WebSocket connection, split and coalesced as it may come.

    `from_client`: who sends; a client has to mask, a server must not. `keep`: the largest message
    kept, in bytes (a longer one is refused with 1009 as soon as it is announced); None: messages
    are counted and never stored, and their text is not checked. Behind a CLOSE all is dropped.
    """

    __slots__ = (
        "_closed",
        "_frame",
        "_from_client",
        "_keep",
        "_left",
        "_length",
        "_mask",
        "_message",
        "_message_opcode",
        "_message_size",
        "_open",
        "_partial",
        "_start",
    )

    def __init__(self, *, from_client: bool, keep: int | None) -> None:
        self._from_client = from_client
        self._keep = keep
        self._closed = False
        self._partial = b""  # of a frame's header
        self._open = False  # a header was read and its payload is not complete
        self._start = 0  # first byte of that header
        self._length = 0
        self._left = 0
        self._mask = b""
        self._frame = bytearray()  # payload of the frame in progress, as received
        self._message_opcode = CONTINUATION  # which stands for: no message in progress
        self._message_size = 0
        self._message = bytearray()

    @property
    def at_boundary(self) -> bool:
        """No frame or message in progress: the reader may be dropped, and a new one made later."""
        return not (self._partial or self._open or self._message_opcode)

    def feed(self, data: bytes) -> list[Event]:
        """The messages and control frames that `data` completes. Raises FrameViolation."""
        events: list[Event] = []
        if self._partial:
            data = self._partial + data
            self._partial = b""
        position, end = 0, len(data)
        while position < end and not self._closed:
            if not self._open:
                header = self._read_header(data, position)
                if not header:
                    self._partial = data[position:]
                    break
                position += header
            stop = min(position + self._left, end)
            self._left -= stop - position
            stored = self._keep is not None or self._start & 0x08
            piece = data[position:stop] if stored else b""
            position = stop
            if self._left:
                self._frame += piece
                break
            if self._frame:
                self._frame += piece
                piece = bytes(self._frame)
                self._frame.clear()
            self._open = False
            event = self._finish(apply_mask(piece, self._mask) if self._mask else piece)
            if event is not None:
                events.append(event)
        return events

    def _read_header(self, data: bytes, at: int) -> int:
        """Open the frame whose header starts at `at`: the header's size, or 0 while it is incomplete."""
        available = len(data) - at
        if available < 2:
            return 0
        start, second = data[at], data[at + 1]
        self._check_start(start, second)
        length, size = second & 0x7F, 2
        if length >= 126:
            wide = length == 127
            size = 10 if wide else 4
            if available < size:
                return 0
            length = int.from_bytes(data[at + 2 : at + size], "big")
            if length < (1 << 16 if wide else 126):
                raise FrameViolation("the length is not in its shortest form")
            if length >> 63:
                raise FrameViolation("the length has its top bit set")
        if self._from_client:
            size += 4
            if available < size:
                return 0
            self._mask = data[at + size - 4 : at + size]
        if start & 0x08 == 0:
            self._message_size += length
            if self._keep is not None and self._message_size > self._keep:
                raise FrameViolation(f"message exceeds {self._keep} bytes", TOO_BIG)
        self._start, self._length, self._left, self._open = start, length, length, True
        return size

    def _check_start(self, start: int, second: int) -> None:
        opcode = start & 0x0F
        if start & 0x70:
            raise FrameViolation("reserved bits are set, and no extension was agreed on")
        if bool(second & 0x80) is not self._from_client:
            raise FrameViolation(
                "unmasked frame from a client" if self._from_client else "masked frame from a server"
            )
        if opcode >= CLOSE:
            if opcode > PONG:
                raise FrameViolation(f"opcode {opcode} is reserved")
            if not start & 0x80:
                raise FrameViolation("fragmented control frame")
            if second & 0x7F > _MAX_CONTROL:
                raise FrameViolation("control frame over 125 bytes")
        elif opcode > BINARY:
            raise FrameViolation(f"opcode {opcode} is reserved")
        elif opcode == CONTINUATION and not self._message_opcode:
            raise FrameViolation("continuation of no message")
        elif opcode != CONTINUATION and self._message_opcode:
            raise FrameViolation("new message inside a fragmented one")

    def _finish(self, payload: bytes) -> Event | None:
        """The frame in progress is complete: its event, or None if its message goes on."""
        opcode = self._start & 0x0F
        if opcode >= CLOSE:
            code = self._close_code(payload) if opcode == CLOSE else None
            return Event(opcode, payload, self._length, code)
        opcode = opcode or self._message_opcode
        if not self._start & 0x80:
            self._message_opcode = opcode
            self._message += payload
            return None
        if self._message:
            payload = bytes(self._message + payload)
            self._message.clear()
        size = self._message_size
        self._message_opcode = CONTINUATION
        self._message_size = 0
        if opcode == TEXT:
            _check_utf8(payload, "text message")
        return Event(opcode, payload, size, None)

    def _close_code(self, payload: bytes) -> int | None:
        self._closed = True
        if not payload:
            return None
        code = int.from_bytes(payload[:2], "big")
        if len(payload) == 1 or not _may_be_sent(code):
            raise FrameViolation("malformed close code")
        _check_utf8(payload[2:], "close reason")
        return code


def _check_utf8(payload: bytes, what: str) -> None:
    try:
        payload.decode()
    except UnicodeDecodeError:
        raise FrameViolation(f"{what} is not UTF-8", INVALID_DATA) from None
