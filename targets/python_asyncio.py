"""An echo server as the documentation of asyncio writes it: python_asyncio.py ADDRESS PORT."""

import asyncio
import contextlib
import socket
import sys

BACKLOG = 65535


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def main(address: str, port: int) -> None:
    # Out of descriptors, asyncio reports each refused accept() and tries again in a second.
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, port), family=family) as listener:
        server = await asyncio.start_server(echo, sock=listener)
        # Not by start_server(backlog=...): asyncio accepts that many in a row without a look at EMFILE.
        listener.listen(BACKLOG)
        await server.serve_forever()


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
