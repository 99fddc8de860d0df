"""What all records share."""

from msgspec import Struct


class Record(Struct, frozen=True, kw_only=True):
    """Base of all records: immutable, keyword-only."""
