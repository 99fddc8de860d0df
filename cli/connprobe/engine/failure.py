"""From an exception or errno of a socket to the cause that is counted and the detail that is shown."""

import errno
import os

from connprobe import causes

_BY_ERRNO = {
    errno.ECONNREFUSED: causes.REFUSED,
    errno.ECONNRESET: causes.RESET,
    errno.EPIPE: causes.RESET,
    errno.ECONNABORTED: causes.RESET,
    errno.ETIMEDOUT: causes.TIMEOUT,
    errno.EADDRNOTAVAIL: causes.NO_SOURCE_PORT,
    errno.EADDRINUSE: causes.NO_SOURCE_PORT,
    errno.EMFILE: causes.FD_LIMIT,
    errno.ENFILE: causes.FD_LIMIT,
    errno.ENOSPC: causes.FD_LIMIT,  # epoll_ctl: fs.epoll.max_user_watches
    errno.ENOBUFS: causes.FD_LIMIT,
    errno.ENOMEM: causes.FD_LIMIT,
}


class Refusal(Exception):
    """The peer answered, and the answer is no (or nonsense)."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(cause, detail)
        self.cause, self.detail = cause, detail


def cause_of(number: int) -> tuple[str, str]:
    """(cause, detail) of an errno. What is not listed keeps its name and counts as unreachable."""
    name = errno.errorcode.get(number, str(number))
    return _BY_ERRNO.get(number, causes.UNREACHABLE), f"{name}: {os.strerror(number)}"
