"""An echo server with a thread for each connection: python_threads.py ADDRESS PORT STACK_KB."""

import contextlib
import errno
import socket
import sys
import threading
import time

BACKLOG = 65535
OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
RETRY_S = 1.0  # as asyncio does


def echo(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(4096):
            connection.sendall(data)


def serve(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if error.errno in OUT_OF_RESOURCES:
                time.sleep(RETRY_S)
            elif error.errno != errno.ECONNABORTED:
                raise
            continue
        try:
            threading.Thread(target=echo, args=(connection,), daemon=True).start()
        except RuntimeError:  # no more threads: closed, as socketserver's ThreadingMixIn does
            connection.close()


address, port, stack_kb = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
threading.stack_size(stack_kb * 1024)
family = socket.AF_INET6 if ":" in address else socket.AF_INET
serve(socket.create_server((address, port), family=family, backlog=BACKLOG))
