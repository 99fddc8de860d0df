"""What all records share."""

import msgspec
from msgspec import Struct


class Record(Struct, frozen=True, kw_only=True):
    """Base of all records: immutable, keyword-only."""


def as_json(record: object) -> str:
    """Indented, for people too, without a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2).decode()
