"""A server for tests of `pipeline`: python pipelined.py PORT [WISH ...]. It answers when it is told.

stop-at=N: reads N requests and then no more. die-at=N, close-at=N: its end, or the connection's, once it has
read N. at-once: answers each. numbered: answers name the place of their request; backwards: the wrong one.
half: answers but half of what is pending. hoard=BYTES: keeps so much memory for each request.
"""

import os
import socket
import sys
import threading
from contextlib import suppress

PORT, *WISHES = sys.argv[1:]
END = b"\r\n\r\n"
lock = threading.Lock()
pending: dict[socket.socket, int] = {}
memory: list[bytearray] = []


def wish(name: str) -> int:
    return next((int(each.partition("=")[2]) for each in WISHES if each.startswith(f"{name}=")), 0)


def answer(number: int, count: int) -> bytes:
    head = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n"
    if "numbered" in WISHES or "backwards" in WISHES:
        head += f"Connprobe-Number: {number if 'numbered' in WISHES else count + 1 - number}\r\n"
    return (head + "\r\nok\n").encode()


def release() -> int:
    with lock:
        released = dict(pending)
        pending.clear()
    for sock, count in released.items():
        told = count // 2 if "half" in WISHES else count
        sock.sendall(b"".join(answer(number, count) for number in range(1, told + 1)))
    return sum(released.values())


def read_head(sock: socket.socket) -> bytes:
    head = b""
    while not head.endswith(END):
        data = sock.recv(1)
        if not data:
            return b""
        head += data
    return head


def serve(sock: socket.socket) -> None:
    with suppress(OSError):
        head = read_head(sock)
        if head.startswith(b"GET /release "):
            body = f"{release()}\n"
            sock.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            sock.close()
            return
        count = 0
        while head:
            count += 1
            if "at-once" in WISHES:
                sock.sendall(answer(count, count))
            else:
                with lock:
                    pending[sock] = count
            if wish("hoard"):
                memory.append(bytearray(b"x") * wish("hoard"))
            if count == wish("die-at"):
                sys.stdout.write("no more: died as told\n")
                sys.stdout.flush()
                os._exit(7)
            if count == wish("close-at"):
                sock.close()
                return
            if count == wish("stop-at"):
                threading.Event().wait()
            head = sock.recv(len(head), socket.MSG_WAITALL)


with socket.create_server(("127.0.0.1", int(PORT))) as listener:
    while True:
        accepted, _ = listener.accept()
        threading.Thread(target=serve, args=(accepted,), daemon=True).start()
