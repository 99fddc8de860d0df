"""What `--message` names: a text, or one of a size. Pure; a file is read by who asks."""

import re

from connprobe.errors import UsageError

LARGEST = 1 << 20  # what the embedded server echoes
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(B|kB|KB|KiB|MB|MiB)")
_UNITS = {"B": 1, "kB": 1000, "KB": 1000, "KiB": 1024, "MB": 1_000_000, "MiB": 1 << 20}
# Of one, two, three and four bytes: what mangles UTF-8 mangles one of them.
_PATTERN = "Grüße, 世界 🌍. "


def parse_message(text: str, option: str = "--message") -> bytes:
    """`1kB` is a text of that size, anything else is the text itself. Raises UsageError."""
    size = _SIZE.fullmatch(text)
    if size is not None:
        return sized(check_size(int(float(size[1]) * _UNITS[size[2]]), text, option))
    try:
        payload = text.encode()
    except UnicodeEncodeError as error:  # bytes of the command line that are no UTF-8
        raise UsageError(f"{option} {text!r} is not UTF-8", fix=f"{option} @FILE sends any bytes") from error
    check_size(len(payload), text, option)
    return payload


def is_size(text: str) -> bool:
    """Whether `text` names a size, and the message is of our own making."""
    return _SIZE.fullmatch(text) is not None


def check_size(size: int, text: str, option: str = "--message") -> int:
    """`size` itself. Raises UsageError."""
    if size < 1:
        raise UsageError(f"{option} {text!r} is empty", fix=f"{option} 32B, or --messages 0")
    if size > LARGEST:
        shown = text if len(text) <= 40 else f"{text[:40]}…"
        raise UsageError(f"{option} {shown!r} is longer than {LARGEST:,} bytes", fix=f"{option} 1MiB")
    return size


def sized(size: int) -> bytes:
    """`size` bytes of UTF-8, filled up with dots where a character would not fit."""
    text = (_PATTERN * (size // len(_PATTERN.encode()) + 1)).encode()[:size]
    return text.decode(errors="ignore").encode().ljust(size, b".")
