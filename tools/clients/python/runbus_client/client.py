"""The client: one logical connection over as many WebSockets as it takes."""

import asyncio
import random
import uuid

import websockets

from runbus_client.connection import Connection
from runbus_client.errors import ConnectionLost, RpcError
from runbus_client.run import Run
from runbus_client.subscription import follow

# Methods that only read, or that say the same thing again when repeated.
_REPEATABLE = frozenset(
    "execute.list execute.languages execute.cancel session.open session.info session.list session.close bus.workers bus.services "
    "bus.stats connection.ping connection.info rpc.discover events.unsubscribe".split()
)


class Client:
    """`patience`: seconds for which it tries to connect again before it gives up and every call raises ConnectionLost."""

    def __init__(self, url, token="", patience=60.0, session_id=None):
        self.url = url
        self.session_id = session_id or str(uuid.uuid4())
        self._token = token
        self.patience = patience
        self._connection = None
        self._connecting = None
        self.closed = False
        self.can_connect = True  # false once patience was over, or the server refused us

    async def __aenter__(self):
        await self.connection()
        return self

    async def __aexit__(self, *_):
        await self.close()

    async def close(self):
        self.closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()

    async def connection(self):
        """The living connection; makes one where there is none. Raises ConnectionLost when patience is over."""
        if self.closed:
            raise ConnectionLost("the client is closed")
        if self._connection is not None and not self._connection.lost.done():
            return self._connection
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())
        return await asyncio.shield(self._connecting)

    async def _connect(self):
        loop = asyncio.get_running_loop()
        end = loop.time() + self.patience
        pause = 0.05
        while True:
            try:
                self._connection = await Connection.open(self.url, self._token, timeout=10)
                self.can_connect = True
                return self._connection
            except websockets.InvalidStatusCode as error:
                if error.status_code in (401, 403, 404):
                    self.can_connect = False
                    raise ConnectionLost(f"the server refused the connection: HTTP {error.status_code}") from error
                reason = error
            except (OSError, asyncio.TimeoutError, websockets.WebSocketException) as error:
                reason = error
            if loop.time() + pause > end:
                self.can_connect = False
                raise ConnectionLost(f"no connection for {self.patience:g} s: {reason}") from reason
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, 2.0)

    async def call(self, method, params=None, idempotent=None):
        """One call and its answer. Sent again after a drop, or after an answer that says "retryable", only where repeating is
        safe."""
        repeat = method in _REPEATABLE if idempotent is None else idempotent
        end = asyncio.get_running_loop().time() + self.patience
        while True:
            connection = await self.connection()
            try:
                return await connection.call(method, params or {})
            except ConnectionLost:
                if not repeat:
                    raise
            except RpcError as error:
                if not (repeat and error.retryable) or asyncio.get_running_loop().time() > end:
                    raise
                await asyncio.sleep(0.2)

    async def run(self, code="", language="python", **params):
        """Starts a program and returns its Run. Fields of `execute.code_streaming`."""
        request = {"code": code, "language": language, "session_id": self.session_id, "execution_id": str(uuid.uuid4()), **params}
        return Run(self, request)

    def subscribe(self, topics, since=None):
        """Events as they come, across reconnections: an async iterator of Event and Lagged."""
        return follow(self, topics, since)
