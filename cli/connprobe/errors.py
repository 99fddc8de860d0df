"""The errors that reach a user: each says what was refused and how to mend it.

They carry values and pickle cleanly; `app.py` alone turns them into text and exit codes.
"""


class ConnprobeError(Exception):
    """Anything that ends a command with a message instead of a traceback (exit 1)."""

    exit_code = 1

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.fix)

    def __str__(self) -> str:
        return self.message


def _rebuild(kind: type[ConnprobeError], message: str, fix: str | None) -> ConnprobeError:
    return kind(message, fix=fix)


class UsageError(ConnprobeError):
    """The command line asks for something that makes no sense (exit 2)."""

    exit_code = 2


class RunFailed(ConnprobeError):
    """The command could not do what it was asked (exit 1)."""


class ProtocolViolation(Exception):
    """A peer broke HTTP or WebSocket. The message is one short line without the peer's bytes."""
