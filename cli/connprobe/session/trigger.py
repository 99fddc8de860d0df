"""Asking a server to do what it can be told to, such as to send to all: a request on a second connection."""

import http.client
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from connprobe.engine.task import TlsTask
from connprobe.errors import ProtocolViolation, RunFailed
from connprobe.model import Target
from connprobe.session.target import get_request
from connprobe.wire.http import ResponseReader

READ_BYTES = 65536
LOOK_S = 0.2


def _never() -> bool:
    return False


class Trigger:
    """`GET path`, sent as soon as it is entered; its answer is awaited at the end. Raises RunFailed.

    hurry: whether there is no time to wait for the answer.
    """

    def __init__(
        self,
        target: Target,
        path: str,
        tls: TlsTask | None,
        timeout_s: float,
        what: str = "send its message",
        fix: str = "--message-path, a path that makes it send to all; or --message-by client",
        hurry: Callable[[], bool] = _never,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """what: the server is to do on it."""
        self._what, self._fix = what, fix
        self._path, self._request = path, get_request(target, path, headers)
        self._connection = http.client.HTTPConnection(target.scoped_address, target.port, timeout=timeout_s)
        self._tls, self._timeout_s, self._hurry = tls, timeout_s, hurry

    def __enter__(self) -> Self:
        try:
            self._connection.connect()
            if self._tls is not None:
                from connprobe.engine.tls import client_context

                context: ssl.SSLContext = client_context(self._tls, "http")
                self._connection.sock = context.wrap_socket(
                    self._connection.sock, server_hostname=self._tls.server_name
                )
            self._connection.sock.sendall(self._request)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise self._failed(str(error) or type(error).__name__) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._connection.close()

    def answer(self) -> None:
        """Waits for a good status, not for a body, which may be a stream. Raises RunFailed."""
        reader, until = ResponseReader(), time.monotonic() + self._timeout_s
        sock = self._connection.sock
        try:
            sock.settimeout(LOOK_S)
            while reader.head is None:
                if self._hurry():
                    raise self._failed("the run was interrupted")
                if time.monotonic() >= until:
                    raise self._failed("timed out")
                with suppress(TimeoutError):
                    data = sock.recv(READ_BYTES)
                    reader.feed(data) if data else reader.eof()
        except (OSError, ProtocolViolation) as error:
            raise self._failed(str(error) or type(error).__name__) from error
        if reader.head.status // 100 != 2:
            raise self._failed(f"status {reader.head.status}")

    def _failed(self, why: str) -> RunFailed:
        return RunFailed(f"GET {self._path} did not make the server {self._what}: {why}", fix=self._fix)
