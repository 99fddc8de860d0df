"""What the forked processes of these tests run: imported by the zygote alone, so standard library only."""

import marshal
import os
import socket
import sys
from typing import Any


def prepare(task: tuple[Any, ...]) -> tuple[int, Any]:
    return os.getpid(), task[0]


def run(task: tuple[Any, ...], row: memoryview, control: socket.socket, shared: tuple[int, Any]) -> None:
    what, *rest = task
    control.setblocking(True)
    control.send(marshal.dumps(("hello", os.getpid(), os.getppid(), len(rest), tuple(sys.path), shared)))
    while data := control.recv(1 << 18):
        message = marshal.loads(data)
        match message[0]:
            case "add":
                row[0] += message[1]
                control.send(marshal.dumps(("added", row[0])))
            case "length":
                control.send(marshal.dumps(("length", len(rest[0]))))
            case "take":  # descriptors, until there are no more
                taken = []
                try:
                    while True:
                        taken.append(os.dup(1))
                except OSError:
                    for fd in taken:
                        os.close(fd)
                control.send(marshal.dumps(("taken", len(taken))))
            case "modules":
                loaded = {name: str(getattr(sys.modules[name], "__file__", "")) for name in message[1:]}
                control.send(marshal.dumps(("modules", loaded)))
            case "crash" if what == "victim":
                raise ZeroDivisionError("the test asked for it")
            case "leave" if what == "victim":
                return
            case "part" if what == "victim":  # with a command unread
                control.recv(1, socket.MSG_PEEK)
                control.send(marshal.dumps(("parted",)))
                return
            case "quit":
                if what == "deaf":
                    continue
                control.send(marshal.dumps(("bye", row[0])))
                return
