"""The reference servers by name: what each can be told, and how it is started.

Their programs and configurations are in targets/. Nothing is started here.
"""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from string import Template
from typing import NamedTuple

from connprobe.data import data_dir
from connprobe.errors import RunFailed, UsageError
from connprobe.model import HttpMode, Protocol

MESSAGE_PATH = "/message"
RELEASE_PATH = "/release"
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # where nginx and HAProxy are, and which users' PATH often lacks


class Ready(NamedTuple):
    """How to start a server, and how to hold connections to it."""

    command: tuple[str, ...]  # stays in the foreground; ends on SIGTERM
    environment: dict[str, str]  # added to ours
    protocol: Protocol
    http_mode: HttpMode
    message_path: str | None  # a GET of it sends a message to every connection; None: it echoes, or cannot
    notes: tuple[str, ...] = ()
    release_path: str | None = None  # a GET of it answers every request that is pending


class Option(NamedTuple):
    """A number from `low` to `high`, or one of `choices`. `default` None: not set."""

    default: str | None
    low: int = 0
    high: int = 0
    choices: tuple[str, ...] = ()

    def check(self, named: str, value: str) -> str:
        """The value as it goes into a configuration. Raises UsageError."""
        if self.choices:
            if value not in self.choices:
                raise UsageError(
                    f"{named} is {value!r}, not one of {', '.join(self.choices)}", fix=self.choices[0]
                )
            return value
        if not (value.isascii() and value.isdecimal() and len(value) < 12):
            raise UsageError(f"{named} is {value!r}, not a number", fix=f"{self.low} to {self.high}")
        if not self.low <= int(value) <= self.high:
            raise UsageError(
                f"{named} is {value}, not from {self.low} to {self.high}", fix=f"{self.low} to {self.high}"
            )
        return str(int(value))


class _Asked(NamedTuple):
    program: str
    address: str
    port: int
    directory: Path
    options: dict[str, str]  # those with a value

    @property
    def listen(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def script(self, file: str, *arguments: str) -> tuple[str, ...]:
        """The command line of one of ours; its address and port come before the last arguments."""
        heap = self.options.get("heap_mb")
        flags = ("-I",) if self.program == sys.executable else (f"--max-old-space-size={heap}",) * bool(heap)
        return (self.program, *flags, str(_data() / file), self.address, str(self.port), *arguments)

    def configure(self, name: str, **values: str) -> Path:
        """The file of that name in targets/, filled in, in the directory of the run. Never through a link."""
        file = self.directory / name
        text = Template((_data() / name).read_text()).substitute(values)
        try:
            file.unlink(missing_ok=True)  # of the trial before
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(file, flags, 0o600), "w") as out:  # noqa: PTH123 - a descriptor
                out.write(text)
        except OSError as error:
            raise RunFailed(
                f"{file} cannot be written: {error.strerror}",
                fix="a directory for --results that you may write to",
            ) from error
        return file


class _Server(NamedTuple):
    program: str  # as it is looked for
    package: str | None  # of Debian; None: Python, which is here
    options: Mapping[str, Option]
    ready: Callable[[_Asked], Ready]


def _node_store(shape: str) -> Callable[[_Asked], Ready]:
    def ready(asked: _Asked) -> Ready:
        return Ready(asked.script("node_store.js", shape), {}, "http", "longpoll", MESSAGE_PATH)

    return ready


def _node_pipeline(asked: _Asked) -> Ready:
    command = asked.script("node_pipeline.js")
    return Ready(command, {}, "http", "longpoll", None, ("answers when told",), RELEASE_PATH)


def _node_ws(asked: _Asked) -> Ready:
    return Ready(
        asked.script("node_ws.js", asked.options["workers"]), {}, "ws", "keepalive", None, ("echoes",)
    )


# auth_delay is what keeps a request waiting in nginx itself, at one connection and one timer each.
_NGINX_ANSWERS = {
    "keepalive": r'location / { default_type text/plain; return 200 "ok\n"; }',
    "pending": "location / { auth_basic connprobe; auth_basic_user_file none; auth_delay 7d; }",
}


def _nginx(asked: _Asked) -> Ready:
    mode = asked.options["mode"]
    size = asked.options["worker_connections"]
    file = asked.configure(
        "nginx.conf",
        listen=asked.listen,
        workers=asked.options["workers"],
        worker_connections=size,
        answer=_NGINX_ANSWERS[mode],
        # Accepted with its request, a connection is never one that waits for a request: those are closed
        # while less than 1/16 of the table is free (2,814 of 2,998 were held without it).
        deferred=" deferred" if mode == "pending" else "",
    )
    command = (asked.program, "-e", "stderr", "-p", str(asked.directory), "-c", file.name)
    if mode == "pending":
        return Ready(command, {}, "http", "longpoll", None, ("each request stays unanswered",))
    return Ready(
        command,
        {},
        "http",
        "keepalive",
        None,
        ("answers each request; closes connections between requests to keep 1/16 of its table free",),
    )


def _haproxy(asked: _Asked) -> Ready:
    threads = asked.options.get("threads")
    file = asked.configure(
        "haproxy.cfg",
        bind=asked.listen,
        maxconn=asked.options["maxconn"],
        threads=f"nbthread {threads}" if threads else "# nbthread: its own choice",
    )
    return Ready(
        (asked.program, "-db", "-f", str(file)), {}, "http", "keepalive", None, ("answers each request",)
    )


def _python_asyncio(asked: _Asked) -> Ready:
    return Ready(asked.script("python_asyncio.py"), {}, "tcp", "keepalive", None, ("echoes",))


def _python_threads(asked: _Asked) -> Ready:
    command = asked.script("python_threads.py", asked.options["stack_kb"])
    return Ready(command, {}, "tcp", "keepalive", None, ("echoes",))


def _embedded(asked: _Asked) -> Ready:
    listen = ("--listen", asked.listen, "--processes", asked.options["processes"])
    command = (asked.program, "-P", "-m", "connprobe", "serve", *listen, "--protocol", "ws", "--mode", "echo")
    return Ready(command, {}, "ws", "keepalive", None, ("echoes",))


_HEAP = Option(None, 16, 1 << 20)
_WORKERS = Option("1", 1, 512)
_SERVERS = {
    "node-array": _Server("node", "nodejs", {"heap_mb": _HEAP}, _node_store("array")),
    "node-object": _Server("node", "nodejs", {"heap_mb": _HEAP}, _node_store("object")),
    "node-pipeline": _Server("node", "nodejs", {"heap_mb": _HEAP}, _node_pipeline),
    "node-ws": _Server("node", "nodejs", {"heap_mb": _HEAP, "workers": _WORKERS}, _node_ws),
    "nginx": _Server(
        "nginx",
        "nginx-light",
        {
            "worker_connections": Option("3000", 16, 1 << 24),
            "workers": _WORKERS,
            "mode": Option("keepalive", choices=tuple(_NGINX_ANSWERS)),
        },
        _nginx,
    ),
    "haproxy": _Server(
        "haproxy",
        "haproxy",
        {"maxconn": Option("5000", 1, 1 << 24), "threads": Option(None, 1, 64)},
        _haproxy,
    ),
    "python-asyncio": _Server(sys.executable, None, {}, _python_asyncio),
    "python-threads": _Server(
        sys.executable, None, {"stack_kb": Option("256", 32, 1 << 20)}, _python_threads
    ),
    "embedded": _Server(sys.executable, None, {"processes": _WORKERS}, _embedded),
}
NAMES: tuple[str, ...] = tuple(_SERVERS)


def ready(name: str, port: int, directory: Path, options: Mapping[str, str] = {}) -> Ready:
    """The server `name`, to listen on `port` of the option `address` (127.0.0.1 where it is not given).

    directory: of the run, nobody else's (0700): configurations are written there. Raises UsageError for a
    name, an option or a value that does not exist, RunFailed where the program is not installed.
    """
    server = _SERVERS.get(name)
    if server is None:
        raise UsageError(f"there is no reference server {name!r}", fix=f"one of {', '.join(NAMES)}")
    known = ("address", *server.options)
    for option in options:
        if option not in known:
            raise UsageError(f"the server {name} has no option {option!r}", fix=f"it has {', '.join(known)}")
    values = {}
    for option, kind in server.options.items():
        value = options.get(option, kind.default)
        if value is not None:
            values[option] = kind.check(f"{option} of the server {name}", value)
    address = _address(name, options.get("address", "127.0.0.1"))
    program = find_program(server.program)
    if program is None:
        raise RunFailed(
            f"the server {name} needs {server.program}, which is not installed",
            fix=f"apt-get install {server.package}",
        )
    return server.ready(_Asked(program, address, port, directory.absolute(), values))


def find_program(name: str) -> str | None:
    """Its path, also where users' PATH does not lead."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_SBIN}")


def _address(name: str, text: str) -> str:
    try:
        if "%" in text:  # a zone, in which Python takes any character
            raise ValueError(text)
        return str(ip_address(text))
    except ValueError as error:
        raise UsageError(
            f"address of the server {name} is {text!r}, not an IP address", fix="127.0.0.1"
        ) from error


def _data() -> Path:
    try:
        return data_dir("targets")
    except FileNotFoundError as error:
        raise RunFailed(str(error), fix="pip install --force-reinstall connprobe") from error
