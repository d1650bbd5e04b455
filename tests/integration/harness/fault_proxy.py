"""A proxy between two processes that cuts, delays, throttles and half-opens what goes through it. It never reorders."""

import asyncio
import os
import socket


class FaultProxy:
    """Listens at `listen` and connects to `target`; each is ("unix", path) or ("tcp", host, port)."""

    def __init__(self, listen, target):
        self.listen = listen
        self.target = target
        self.delay = 0.0
        self.bytes_per_second = None
        self.dead = False  # half-open: takes bytes and passes nothing on
        self.cuts = 0
        self._pairs = set()
        self._server = None

    async def __aenter__(self):
        if self.listen[0] == "unix":
            if os.path.exists(self.listen[1]):
                os.unlink(self.listen[1])
            self._server = await asyncio.start_unix_server(self._serve, self.listen[1])
        else:
            self._server = await asyncio.start_server(self._serve, self.listen[1], self.listen[2])
            self.listen = ("tcp", *self._server.sockets[0].getsockname()[:2])
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self):
        """Ends every connection at once, in both directions."""
        self.cuts += len(self._pairs)
        for writers in list(self._pairs):
            for writer in writers:
                writer.transport.abort()

    async def _serve(self, reader, writer):
        try:
            if self.target[0] == "unix":
                other_reader, other_writer = await asyncio.open_unix_connection(self.target[1])
            else:
                other_reader, other_writer = await asyncio.open_connection(self.target[1], self.target[2])
        except OSError:
            writer.transport.abort()
            return
        for each in (writer, other_writer):
            sock = each.get_extra_info("socket")
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = (writer, other_writer)
        self._pairs.add(pair)
        try:
            await asyncio.gather(self._pump(reader, other_writer), self._pump(other_reader, writer))
        finally:
            self._pairs.discard(pair)
            for each in pair:
                each.transport.abort()

    async def _pump(self, reader, writer):
        try:
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if self.bytes_per_second:
                    await asyncio.sleep(len(data) / self.bytes_per_second)
                if self.dead:
                    continue
                writer.write(data)
                await writer.drain()
        except (ConnectionError, OSError):
            pass
        finally:
            writer.transport.abort()
