"""The servers of one bout: the backends and then the contestant, each on a free port of loopback."""

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from connprobe.errors import RunFailed
from connprobe.model.bout import CompareRequest
from connprobe.model.suite import Backend, Contestant, Program
from connprobe.observe.process import ProcessGroup
from connprobe.plan.suites import template
from connprobe.session.certificate import Certificate
from connprobe.session.interrupts import Interrupts
from connprobe.session.started import Late, StartedServer, free_port, taken
from connprobe.session.suites.suite import early
from connprobe.store import files
from connprobe.store.rundir import RunDirectory, sanitise
from connprobe.targets import find_program

ADDRESS = "127.0.0.1"
LONGER = "startup_s in the suite with a longer time; it has to listen on ${port}"
TRIES = 3  # a port that is free when it is looked for may be somebody's when the server asks for it
DISCOVERY_S = 1.0  # of a bout, which may be over in less than that of a longer run
QUIET_CPU, QUIET_S, QUIET_MOST_S = 0.05, 0.4, 5.0


class Contest:
    """`start` starts everything in the order of the suite; leaving the context ends it."""

    def __init__(
        self,
        request: CompareRequest,
        contestant: Contestant,
        directory: RunDirectory,
        certificate: Certificate | None,
        nofile: tuple[int, int],
        interrupts: Interrupts,
    ) -> None:
        self._request, self._contestant, self._directory = request, contestant, directory
        self._certificate, self._nofile, self._interrupts = certificate, nofile, interrupts
        self._undo = ExitStack()
        self.servers: list[tuple[Program, StartedServer]] = []
        self.notes: list[str] = []
        self.port = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def start(self) -> None:
        """Returns when all listen and are quiet, or at an interruption. Raises RunFailed."""
        request, certificate = self._request, self._certificate
        values = {**early(Path(request.place)), "cpus": str(len(os.sched_getaffinity(0)))}
        if certificate is not None:
            values |= dict(zip(template.TLS, map(str, certificate), strict=True))
        behind: Mapping[str, str] = {}
        for program in (*request.suite.backends_of(self._contestant), self._contestant):
            self.port = self._start(program, {**values, **behind})
            if self._interrupts.by is not None:
                return
            behind = {"backend_port": str(self.port)}
        self._settle()

    def group(self) -> ProcessGroup:
        """The processes whose memory and CPU are the contestant's."""
        return ProcessGroup(
            [
                pid
                for program, server in self.servers
                if not isinstance(program, Backend) or program.counted
                for pid in server.pids()
            ],
            discovery_s=DISCOVERY_S,
        )

    def _settle(self) -> None:
        """Workers start behind a listener that is there: returns once all are quiet, or in a while."""
        group = ProcessGroup([pid for _, server in self.servers for pid in server.pids()])
        deadline = time.monotonic() + QUIET_MOST_S
        before = None
        while time.monotonic() < deadline and self._interrupts.by is None:
            group.refresh()
            use = group.sample(time.monotonic(), pss=False)
            if use is None or (before is not None and use.cpu_s - before <= QUIET_CPU * QUIET_S):
                return
            before = use.cpu_s
            time.sleep(QUIET_S)

    def dead(self) -> str | None:
        """Who ended of itself, and how; None: all run."""
        for program, server in self.servers:
            if server.has_ended():
                words = server.last_words()
                return f"{program.name} ended ({server.ending()}){words}"
        return None

    def _start(self, program: Program, values: Mapping[str, str]) -> int:
        """The port it listens on; 0: there was an interruption."""
        for number in range(1, TRIES + 1):
            port = self._port(program, number)
            server = self._run(program, {**values, "port": str(port)})
            self._undo.enter_context(server)
            try:
                place = server.wait_until_listening(
                    port, program.startup_s, lambda: self._interrupts.by is not None
                )
            except RunFailed as failure:
                if number < TRIES and not isinstance(failure, Late) and taken(port) is not None:
                    self.notes.append(f"{program.name}: somebody else took port {port} first")
                    server.stop()
                    continue
                fix = LONGER if isinstance(failure, Late) else failure.fix
                raise RunFailed(f"{program.name}: {failure.message}", fix=fix) from failure
            self.servers.append((program, server))
            return place.port if place is not None else 0
        raise AssertionError

    def _port(self, program: Program, number: int) -> int:
        wanted = program.port
        if wanted is None or number > 1:
            return free_port(ADDRESS)
        if taken(wanted) is None:
            return wanted
        port = free_port(ADDRESS)
        self.notes.append(f"{program.name}: port {wanted} is in use, {port} was taken instead")
        return port

    def _run(self, program: Program, values: Mapping[str, str]) -> StartedServer:
        name = f"{len(self.servers) + 1}-{sanitise(program.name)}"
        servers = self._directory.path / "servers"
        directory = servers / name
        filled = {**values, "directory": str(directory.absolute())}
        try:
            files.private_directory(servers)
            with files.directory(files.private_directory(directory)) as fd:
                for file, text in program.files.items():
                    files.replace_file(file, template.fill(text, filled).encode(), fd, mode=0o600)
        except OSError as error:
            raise RunFailed(
                f"{directory} cannot be written: {error.strerror or error}", fix=f"ls -ld {directory}; df -h"
            ) from error
        words = [template.fill(word, filled) for word in program.command]
        environment = {key: template.fill(text, filled) for key, text in program.environment.items()}
        path = find_program(words[0])
        if path is None:
            raise RunFailed(f"there is no program {words[0]}", fix=program.install)
        log_name = f"{name}.log"
        with self._directory.open_log(log_name) as log:
            return StartedServer(
                [path, *words[1:]], environment, log, self._directory.path / log_name, self._nofile
            )
