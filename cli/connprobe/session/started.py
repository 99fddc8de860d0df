"""A server that connprobe starts: until it listens, while it runs, and its end."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self

from connprobe.errors import RunFailed
from connprobe.fleet import keeper
from connprobe.fleet.fleet import signal_name
from connprobe.observe.listeners import any_listen_sockets, holders_of, sockets_of
from connprobe.observe.runtimes.place import PREFIX
from connprobe.observe.runtimes.preloaded import VARIABLES
from connprobe.observe.sockdiag import ListenSocket

POLL_S = 0.05
QUIET_S = 0.3  # a server that opens several ports opens them one after another
LOG_TAIL = 8192
LOOKS = 2
STARTS_S = 30.0  # a Python more, where processors are emulated or have other work
TELLS_S = 2.0  # the keeper looks for ended processes ten times a second
_KEEPER = Path(keeper.__file__)


class Place(NamedTuple):
    """Where it listens, as a client on this host reaches it."""

    address: str
    port: int

    @property
    def label(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class Late(RunFailed):
    """The server did not listen in time."""


class StartedServer:
    """`command` as a process of its own, in the directory and with the descriptor limit of the shell.

    log: its standard output and error, opened by the caller, also for reading. nofile: its soft and its hard
    limit, which connprobe may have raised for itself.
    Raises RunFailed when it cannot be started. Leaving the context ends it, and all that it forked off.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: IO[bytes],
        log_path: Path,
        nofile: tuple[int, int],
    ) -> None:
        self.command, self.log_path = tuple(command), log_path
        self.status: int | None = None  # as of waitstatus_to_exitcode, of the process that was started
        self._printed = os.dup(log.fileno())  # by then its name may be somebody else's
        self._ending = False
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._keeper = subprocess.Popen(
                    [
                        sys.executable,
                        *("-I", "-S", str(_KEEPER)),
                        *(str(theirs.fileno()), *map(str, nofile), str(Path.cwd())),
                        *self.command,
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **environment},
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C is for connprobe alone
                )
        except OSError as error:
            self._control.close()
            os.close(self._printed)
            raise RunFailed(
                f"the server {self.command[0]!r} could not be started: {error.strerror or error}",
                fix="run connprobe in a directory that exists, with room for one more process",
            ) from error
        self._control.settimeout(STARTS_S)
        why: object = "its keeper ended at once"
        try:
            answer = self._hear()
        except TimeoutError:
            answer, why = None, f"its keeper did not answer within {STARTS_S:.0f} s: this host is too busy"
        if answer is None or answer[0] != "started":
            self.stop()
            why = answer[2] if answer is not None and answer[0] == "refused" else why
            raise RunFailed(
                f"the server {self.command[0]!r} could not be started: {why}",
                fix=f"try it by hand: {shlex.join(self.command)}",
            )
        self.pid = int(str(answer[1]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _hear(self) -> list[object] | None:
        data = self._control.recv(4096)
        if not data:
            return None
        heard: list[object] = json.loads(data)
        return heard

    def pids(self) -> tuple[int, ...]:
        """Its processes now, those too that went their own way; () once all have ended."""
        self._listen(0.0)
        found = keeper.descendants(self._keeper.pid)
        if not found and self.status is None:
            self._listen(TELLS_S)
        for _ in range(0 if found else LOOKS):  # one that was forked while /proc was read was not in it
            found |= keeper.descendants(self._keeper.pid)
        return tuple(sorted(found))

    def _listen(self, most_s: float) -> None:
        """For what the keeper has to say of the server's end."""
        self._control.settimeout(most_s)
        with suppress(OSError):  # nothing was said, or the keeper is gone
            while (message := self._hear()) is not None:
                if message[0] == "ended" and not self._ending:
                    self.status = int(str(message[1]))

    def has_ended(self) -> bool:
        """Whether the process that was started is gone, as its keeper says; cheap enough to ask often."""
        self._listen(0.0)
        return self.status is not None

    def ending(self) -> str:
        """How the process that was started ended, in words."""
        if self.status is None:
            return "it is gone" if not self.pids() else "it runs"
        if self.status < 0:
            return f"killed by {signal_name(-self.status)}"
        return f"exit status {self.status}"

    def wait_until_listening(
        self, port: int | None, most_s: float, hurry: Callable[[], bool]
    ) -> Place | None:
        """Where it accepts connections; None: `hurry` said that there is no time. Raises RunFailed.

        port: None: the only one that it listens on, once it opens no further ones.
        """
        deadline = time.monotonic() + most_s
        before: set[int] = set()
        since = time.monotonic()
        while not hurry():
            pids = self.pids()
            found = _listening(pids, any_listen_sockets(port or 0))
            ports = {each.port for each in found}
            if ports != before:
                before, since = ports, time.monotonic()
            if ports and (port is not None or time.monotonic() - since >= QUIET_S):
                if len(ports) > 1:
                    listed = ", ".join(map(str, sorted(ports)))
                    raise RunFailed(
                        f"the server listens on several ports: {listed}", fix=f"--port {min(ports)}"
                    )
                return place_of(found)
            if not pids:
                raise RunFailed(
                    f"the server ended before it listened ({self.ending()}){self.last_words()}",
                    fix=self._without_preload() or f"its output: {self.log_path}",
                )
            if time.monotonic() >= deadline:
                raise Late(
                    f"the server did not listen{f' on port {port}' if port else ''} within {most_s:g} s"
                    f"{_elsewhere(pids, port)}{self.last_words()}",
                    fix="--startup with a longer time; it must listen in this network namespace",
                )
            time.sleep(POLL_S)
        return None

    def tail(self) -> str:
        """The end of what it printed; nothing once it was stopped."""
        with suppress(OSError):
            size = os.fstat(self._printed).st_size
            return os.pread(self._printed, LOG_TAIL, max(0, size - LOG_TAIL)).decode(errors="replace")
        return ""

    def last_words(self) -> str:
        """As they go behind a sentence on its end; nothing where it printed nothing."""
        lines = [line for line in self.tail().splitlines() if line.strip()]
        return f"; its last words: {printable(lines[-1])[:200]}" if lines else ""

    def _without_preload(self) -> str | None:
        """The command that starts it, where its output tells of a preload that it could not load."""
        if PREFIX not in self.tail():
            return None
        unset = " ".join(f"-u {name}" for name in VARIABLES)
        return f"without a reading of its heap it starts: -- env {unset} {shlex.join(self.command)}"

    def stop(self) -> None:
        """SIGTERM, and SIGKILL five seconds later, to all of its processes. Idempotent."""
        self._ending = True
        self._control.close()
        try:
            self._keeper.wait(2 * keeper.GRACE_S + 2)
        except subprocess.TimeoutExpired:
            self._keeper.send_signal(signal.SIGKILL)
            self._keeper.wait()
        if self._printed >= 0:
            os.close(self._printed)
            self._printed = -1


def taken(port: int) -> tuple[int, ...] | None:
    """Who listens on that port of this network namespace; None: nobody. (): it may not be known."""
    found = any_listen_sockets(port)
    return holders_of(found).pids if found else None


def free_port(address: str) -> int:
    """One that nobody listens on now."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
        sock.bind((address, 0))
        port: int = sock.getsockname()[1]
    return port


def printable(text: str) -> str:
    """What a server printed, without what would move a terminal's cursor."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _listening(pids: Sequence[int], sockets: Sequence[ListenSocket]) -> list[ListenSocket]:
    found = []
    for pid in pids if sockets else ():
        with suppress(OSError):  # it has ended
            found += sockets_of(pid, sockets)
    return found


def place_of(found: Sequence[ListenSocket]) -> Place:
    """IPv4 before IPv6, as that is what most clients try; the wildcard is reached by the loopback."""
    best = min(found, key=lambda each: (each.address.version, not each.address.is_unspecified))
    if not best.address.is_unspecified:
        return Place(str(best.address), best.port)
    by_ipv4 = best.address.version == 4 or not best.v6only
    return Place("127.0.0.1" if by_ipv4 else "::1", best.port)


def _elsewhere(pids: Sequence[int], port: int | None) -> str:
    other = sorted({each.port for each in _listening(pids, any_listen_sockets())}) if port else []
    return f"; it listens on {', '.join(map(str, other))}" if other else ""
