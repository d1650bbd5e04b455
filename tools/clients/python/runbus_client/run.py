"""One execution, followed across as many connections as it takes."""

import asyncio
import base64
import dataclasses

from runbus_client.errors import ConnectionLost, RpcError

# Items that wait for a caller who does not take them. Then the socket is not read, and the program blocks.
_MAX_WAITING = 64


@dataclasses.dataclass(frozen=True)
class Started:
    execution_id: str
    session_id: str
    language: str


@dataclasses.dataclass(frozen=True)
class Output:
    stream: str
    offset: int
    data: bytes


@dataclasses.dataclass(frozen=True)
class Gap:
    """The server said that it no longer has the bytes [begin, end)."""

    begin: int
    end: int


class Run:
    """An async iterator of Started, Output and Gap; then `result()` has the outcome. Made by Client.run."""

    def __init__(self, client, request):
        self._client = client
        self._request = request
        self.execution_id = request["execution_id"]
        self.session_id = request["session_id"]
        self._position = 0
        self._has_started = asyncio.Event()
        self._items = asyncio.Queue(_MAX_WAITING)
        self._task = asyncio.create_task(self._follow())

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self._items.empty() and not self._task.done():
            taker = asyncio.create_task(self._items.get())
            await asyncio.wait({taker, self._task}, return_when=asyncio.FIRST_COMPLETED)
            if taker.done():
                return taker.result()
            taker.cancel()
        if self._items.empty():
            raise StopAsyncIteration
        return self._items.get_nowait()

    async def result(self):
        """The outcome (fields of StreamResult); throws away items that nobody took. Raises RpcError or ConnectionLost."""
        async for _ in self:
            pass
        return await self._task

    async def input(self, data, eof=False):
        """Writes to standard input; waits while the program does not read."""
        if isinstance(data, str):
            data = data.encode()
        names = {"execution_id": self.execution_id, "session_id": self.session_id}
        started = asyncio.create_task(self._has_started.wait())
        await asyncio.wait({started, self._task}, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        while True:
            part = data[: 256 << 10]
            last = len(part) == len(data)
            params = {**names, "data": base64.b64encode(part).decode(), "eof": eof and last}
            taken = (await self._client.call("execute.input", params))["accepted"]
            data = data[int(taken):]
            if not data:
                return
            if int(taken) == 0:
                await asyncio.sleep(0.05)

    async def signal(self, name):
        await self._client.call(
            "execute.signal", {"execution_id": self.execution_id, "session_id": self.session_id, "signal": name}
        )

    async def cancel(self):
        await self._client.call("execute.cancel", {"execution_id": self.execution_id, "session_id": self.session_id})

    async def _follow(self):
        loop = asyncio.get_running_loop()
        give_up = None
        while True:
            try:
                if self._has_started.is_set():
                    method = "execute.attach"
                    params = {"session_id": self.session_id, "execution_id": self.execution_id, "offset": self._position}
                else:
                    # The same id and parameters: attaches where it was started already.
                    method, params = "execute.code_streaming", self._request
                connection = await self._client.connection()
                return await connection.call(method, params, self._on_item)
            except ConnectionLost:
                if self._client.closed or not self._client.can_connect:
                    raise
            except RpcError as error:
                if not error.retryable:
                    raise
                give_up = give_up or loop.time() + self._client.patience
                if loop.time() > give_up:
                    raise
                await asyncio.sleep(0.2)

    async def _on_item(self, method, params):
        if method == "execute.started":
            if not self._has_started.is_set():
                self._has_started.set()
                await self._items.put(Started(params["execution_id"], params["session_id"], params["language"]))
        elif method == "execute.gap":
            begin, end = int(params["from"]), int(params["to"])
            if end > self._position:
                await self._items.put(Gap(max(begin, self._position), end))
                self._position = end
        elif method == "execute.output":
            data = params["text"].encode() if "text" in params else base64.b64decode(params["data"])
            offset = int(params["offset"])
            if offset > self._position:
                raise ValueError(f"output jumped from {self._position} to {offset} with no gap named")
            fresh = data[self._position - offset:]
            if fresh:
                await self._items.put(Output(params["stream"], self._position, fresh))
                self._position += len(fresh)
