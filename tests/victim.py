"""A server for tests of `limit`: python victim.py PORT [WISH ...]

die-at=N: exits with 7 at the Nth connection. fade-at=N: half a second after the Nth it listens no more and
closes all, and is killed two seconds later, as a large process is that the kernel ends. most=N: closes those
beyond. accept=N: accepts no more, with a backlog of 10. idle=S: closes what says nothing for so long.
slow=S: before each answer. doze=S: looks at its sockets once in so long. address=IP. daemon, leak, deaf.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from contextlib import suppress

PORT, *WISHES = sys.argv[1:]
GIVEN = dict(wish.split("=") for wish in WISHES if "=" in wish)
DIE_AT, FADE_AT, MOST, ACCEPT = (int(GIVEN.get(name, 0)) for name in ("die-at", "fade-at", "most", "accept"))
SLOW_S, DOZE_S = float(GIVEN.get("slow", 0)), float(GIVEN.get("doze", 0))
IDLE_S = float(GIVEN.get("idle", 0)) or None
held = accepted = 0
listening: list[asyncio.Server] = []
hoard: list[bytearray] = []
writers: set[asyncio.StreamWriter] = set()


def fade() -> None:
    listening[0].close()
    for writer in list(writers):
        writer.close()
    asyncio.get_running_loop().call_later(2, os.kill, os.getpid(), signal.SIGKILL)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    global held, accepted
    held, accepted = held + 1, accepted + 1
    writers.add(writer)
    if accepted == FADE_AT:
        asyncio.get_running_loop().call_later(0.5, fade)
    if accepted == ACCEPT:
        for sock in listening[0].sockets:
            asyncio.get_running_loop().remove_reader(sock.fileno())
    if held == DIE_AT:
        sys.stdout.write("no more: died as told\n")
        sys.stdout.flush()
        os._exit(7)
    try:
        while (not MOST or held <= MOST) and (data := await asyncio.wait_for(reader.read(4096), IDLE_S)):
            if SLOW_S:
                time.sleep(SLOW_S)
            writer.write(data)
    except (OSError, TimeoutError):
        pass
    finally:
        held -= 1
        writers.discard(writer)
        writer.close()


async def doze() -> None:
    while True:
        time.sleep(DOZE_S)
        await asyncio.sleep(0.02)


async def leak() -> None:
    for _ in range(3000):
        hoard.append(bytearray(400_000))
        await asyncio.sleep(0.05)


async def main() -> None:
    if "deaf" in WISHES:
        await asyncio.sleep(60)
    leaking = asyncio.create_task(leak()) if "leak" in WISHES else None
    backlog = 1 if ACCEPT else 4096  # also how many asyncio accepts in one turn of its loop
    server = await asyncio.start_server(
        serve, GIVEN.get("address", "127.0.0.1"), int(PORT), backlog=backlog, reuse_address=True
    )
    listening.append(server)
    for sock in server.sockets if ACCEPT else ():
        with socket.socket(fileno=os.dup(sock.fileno())) as listener:
            listener.listen(10)
    dozing = asyncio.create_task(doze()) if DOZE_S else None
    with suppress(asyncio.CancelledError):
        await server.serve_forever()
    await asyncio.sleep(10 if FADE_AT else 0)
    del leaking, dozing


if "daemon" in WISHES:
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
asyncio.run(main())
