"""A server for tests of `limit`: python victim.py PORT [die-at=N] [daemon] [leak] [deaf] [slow=SECONDS]."""

import asyncio
import os
import sys
import time

PORT, *WISHES = sys.argv[1:]
DIE_AT = next((int(wish[7:]) for wish in WISHES if wish.startswith("die-at=")), 0)
SLOW_S = next((float(wish[5:]) for wish in WISHES if wish.startswith("slow=")), 0.0)
held = 0
hoard: list[bytearray] = []


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    global held
    held += 1
    if held == DIE_AT:
        sys.stdout.write("no more: died as told\n")
        sys.stdout.flush()
        os._exit(7)
    try:
        while data := await reader.read(4096):
            if SLOW_S:
                time.sleep(SLOW_S)
            writer.write(data)
    except OSError:
        pass
    finally:
        held -= 1
        writer.close()


async def leak() -> None:
    for _ in range(3000):
        hoard.append(bytearray(400_000))
        await asyncio.sleep(0.05)


async def main() -> None:
    if "deaf" in WISHES:
        await asyncio.sleep(60)
    leaking = asyncio.create_task(leak()) if "leak" in WISHES else None
    server = await asyncio.start_server(serve, "127.0.0.1", int(PORT), backlog=4096)
    async with server:
        await server.serve_forever()
    del leaking


if "daemon" in WISHES:
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
asyncio.run(main())
