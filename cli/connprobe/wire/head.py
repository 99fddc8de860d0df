"""The head of an HTTP/1 message: finding its end as bytes trickle in, and reading its fields.

Requests are read by the letter, because two readings of one request are how requests are smuggled.
Responses get the leniency that RFC 9112 grants a client: a bare LF ends a line (section 2.2) and a
folded field is unfolded (section 5.2), so that whatever a browser can hold can be held here.
"""

import re
from typing import NamedTuple, NoReturn

from connprobe.errors import ProtocolViolation

MAX_HEAD = 65_536  # bytes, blank line included
MAX_HEADERS = 256

CHUNKED = -1
UNTIL_CLOSE = -2
ABSENT = -3

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_LINE = _TOKEN + rb":[^\0\r\n]*+"
_FIELDS = rb"((?:" + _LINE + rb"\r\n)*+)\r\n"
_FIELD = re.compile(_LINE)
_SPACE_BEFORE_COLON = re.compile(_TOKEN + rb"[ \t]+:")
_RESPONSE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: ([^\0\r\n]*+))?\r\n" + _FIELDS)
_REQUEST = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]++) HTTP/1\.([0-9])\r\n" + _FIELDS)
_END = re.compile(rb"\n\r?\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_FOLD = re.compile(rb"\r\n[ \t]+")
_LENGTH = re.compile(r"[0-9]{1,18}")  # below 2**63, and far below int()'s limit on digits

is_token = re.compile(_TOKEN.decode()).fullmatch
is_target = re.compile(r"[\x21-\x7e]++").fullmatch
is_field_value = re.compile(r"[^\0\r\n]*+").fullmatch


class ResponseHead(NamedTuple):
    """Status line and fields. Names are lower case; a repeated field is joined with ", "."""

    status: int
    reason: str
    headers: dict[str, str]


class RequestHead(NamedTuple):
    """Request line and fields, as in ResponseHead."""

    method: str
    path: str
    version_minor: int
    headers: dict[str, str]


def head_end(buffer: bytearray, scanned: int, what: str) -> int:
    """Index just behind the blank line, 0 while it has not come.

    `scanned` bytes held no end at the last call, so a head that comes byte by byte costs O(n).
    Raises ProtocolViolation over MAX_HEAD bytes; `what` is "request" or "response".
    """
    found = _END.search(buffer, max(0, scanned - 2))
    end = found.end() if found else 0
    if (end or len(buffer)) > MAX_HEAD:
        raise ProtocolViolation(f"{what} head exceeds {MAX_HEAD} bytes")
    return end


def parse_response_head(raw: bytes) -> ResponseHead:
    """Read a response head, `raw` ending with its blank line. Raises ProtocolViolation."""
    match = _RESPONSE.fullmatch(raw)
    if match is None:
        raw = _tolerated(raw)
        match = _RESPONSE.fullmatch(raw)
        if match is None:
            _refuse(raw, "status line")
    _, status, reason, fields = match.groups(b"")
    return ResponseHead(int(status), reason.decode("latin-1").strip(), _headers(fields))


def parse_request_head(raw: bytes) -> RequestHead:
    """Read a request head, `raw` ending with its blank line. Raises ProtocolViolation.

    Refused besides what the grammar excludes: no Host in HTTP/1.1, or several (RFC 9112, 3.2).
    """
    match = _REQUEST.fullmatch(raw)
    if match is None:
        _refuse(raw, "request line")
    method, path, minor, fields = match.groups()
    headers = _headers(fields)
    host = headers.get("host")
    if host is None and minor != b"0":
        raise ProtocolViolation("the request has no Host")
    if host is not None and "," in host:
        raise ProtocolViolation("the request has more than one Host")
    return RequestHead(method.decode("ascii"), path.decode("ascii"), int(minor), headers)


def _headers(fields: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    lines = fields.decode("latin-1").split("\r\n")
    if len(lines) - 1 > MAX_HEADERS:
        raise ProtocolViolation(f"more than {MAX_HEADERS} headers")
    lines.pop()
    for line in lines:
        name, _, value = line.partition(":")
        name = name.lower()
        value = value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _tolerated(raw: bytes) -> bytes:
    # What stands between the status line and the first field must not be unfolded (RFC 9112, 2.2).
    start, _, rest = _BARE_LF.sub(b"\r\n", raw).partition(b"\r\n")
    return start + b"\r\n" + _FOLD.sub(b" ", rest)


def _refuse(raw: bytes, start_line: str) -> NoReturn:
    """Name the first fault of a head that does not match the grammar."""
    if _BARE_LF.search(raw):
        raise ProtocolViolation("a line of the head ends with a bare LF")
    first, *lines = raw.split(b"\r\n")
    if not (_RESPONSE if start_line == "status line" else _REQUEST).fullmatch(first + b"\r\n\r\n"):
        raise ProtocolViolation(f"malformed {start_line}")
    for number, line in enumerate(lines, 1):
        if line.startswith((b" ", b"\t")):
            raise ProtocolViolation(f"header {number} is folded or starts with a space")
        if _SPACE_BEFORE_COLON.match(line):
            raise ProtocolViolation(f"header {number} has a space before its colon")
        if line and not _FIELD.fullmatch(line):
            raise ProtocolViolation(f"header {number} is malformed")
    raise ProtocolViolation("the head does not end with one blank line")


def listed(value: str) -> list[str]:
    """The members of a comma-separated field, in lower case."""
    return [member.strip() for member in value.lower().split(",")]


def keeps_alive(headers: dict[str, str], minor: int) -> bool:
    """Whether the connection outlives this message (RFC 9112, section 9.3)."""
    connection = headers.get("connection")
    if connection is None:
        return minor > 0
    options = listed(connection)
    return "close" not in options and (minor > 0 or "keep-alive" in options)


def body_framing(headers: dict[str, str], minor: int) -> int:
    """Length of the body in bytes, or CHUNKED, UNTIL_CLOSE (another coding than chunked) or ABSENT.

    Raises ProtocolViolation for what RFC 9112, section 6 calls faulty: Content-Length beside
    Transfer-Encoding, Transfer-Encoding in HTTP/1.0, chunked twice or not last, lengths that differ.
    """
    length = headers.get("content-length")
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if length is not None:
            raise ProtocolViolation("both Content-Length and Transfer-Encoding")
        if minor == 0:
            raise ProtocolViolation("Transfer-Encoding in an HTTP/1.0 message")
        codings = listed(coding)
        if "chunked" in codings[:-1]:
            raise ProtocolViolation("chunked is not the last transfer coding")
        return CHUNKED if codings[-1] == "chunked" else UNTIL_CLOSE
    if length is None:
        return ABSENT
    if not _LENGTH.fullmatch(length):
        lengths = set(listed(length))
        length = lengths.pop()
        if lengths or not _LENGTH.fullmatch(length):
            raise ProtocolViolation("malformed or conflicting Content-Length")
    return int(length)
