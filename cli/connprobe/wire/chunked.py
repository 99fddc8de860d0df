"""The chunked transfer coding (RFC 9112, section 7.1), shared by requests and responses.

Its lines are read by the letter on both sides: a lenient chunk line is how bodies are smuggled.
"""

import re

from connprobe.errors import ProtocolViolation
from connprobe.wire.head import MAX_HEAD

MAX_CHUNK_LINE = 4096  # bytes: a size of 16 digits, the rest is extensions

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\0\r\n]*+)?\r\n")  # 15 digits: below 2**60
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[^\0\r\n]*+\r\n")
_CRLF = b"\r\n"


class ChunkedBody:
    """Reads one chunked body. `complete` turns True behind its trailers, which are dropped."""

    __slots__ = ("_after_data", "_in_trailers", "_left", "_scanned", "_trailers", "complete")

    def __init__(self) -> None:
        self.complete = False
        self._left = 0  # of the chunk in progress
        self._after_data = False  # the CRLF behind a chunk's data is due
        self._in_trailers = False
        self._trailers = 0  # bytes
        self._scanned = 0  # bytes of the buffer known to hold no line end

    def take(self, buffer: bytearray, sink: bytearray | None = None) -> int:
        """Remove from the front of `buffer` what belongs to the body; the number of data bytes.

        Data goes to `sink`, or nowhere. Raises ProtocolViolation.
        """
        taken = 0
        while not self.complete:
            if self._left:
                count = min(self._left, len(buffer))
                if sink is not None:
                    sink += buffer[:count]
                del buffer[:count]
                taken += count
                self._left -= count
                if self._left:
                    break
                self._after_data = True
            if self._after_data:
                if not _CRLF.startswith(buffer[:2]):
                    raise ProtocolViolation("a chunk is longer than its size")
                if len(buffer) < 2:
                    break
                del buffer[:2]
                self._after_data = False
            line = self._line(buffer)
            if line is None:
                break
            if self._in_trailers:
                self._trailer(line)
            else:
                self._size(line)
        return taken

    def _line(self, buffer: bytearray) -> bytes | None:
        limit = MAX_HEAD - self._trailers if self._in_trailers else MAX_CHUNK_LINE
        end = buffer.find(b"\n", self._scanned) + 1
        if (end or len(buffer)) > limit:
            raise ProtocolViolation(
                f"trailers exceed {MAX_HEAD} bytes"
                if self._in_trailers
                else f"chunk line exceeds {MAX_CHUNK_LINE} bytes"
            )
        if not end:
            self._scanned = len(buffer)
            return None
        self._scanned = 0
        line = bytes(buffer[:end])
        del buffer[:end]
        return line

    def _size(self, line: bytes) -> None:
        match = _SIZE.fullmatch(line)
        if match is None:
            raise ProtocolViolation("malformed chunk size")
        self._left = int(match[1], 16)
        self._in_trailers = not self._left

    def _trailer(self, line: bytes) -> None:
        self._trailers += len(line)
        if line == _CRLF:
            self.complete = True
        elif _TRAILER.fullmatch(line) is None:
            raise ProtocolViolation("malformed trailer")
