"""A WebSocket on port 8100 that says everything back, and events on port 8101: the second one comes only when
somebody, who has had the first, asks for /v1/next."""

import asyncio

import websockets


async def echo(socket):
    async for message in socket:
        await socket.send(f"back: {message}")


asked = None


async def events(reader, writer):
    head = await reader.readuntil(b"\r\n\r\n")
    if b"/v1/next" in head:
        asked.set()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    else:
        asked.clear()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: one\n\n")
        await writer.drain()
        await asked.wait()
        writer.write(b"data: two\n\n")
    await writer.drain()
    writer.close()


async def main():
    global asked
    asked = asyncio.Event()
    server = await asyncio.start_server(events, "127.0.0.1", 8101)
    async with server, websockets.serve(echo, "127.0.0.1", 8100):
        await asyncio.Future()


asyncio.run(main())
