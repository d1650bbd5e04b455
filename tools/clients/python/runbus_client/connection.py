"""One WebSocket: requests out, answers and notifications in. Knows nothing of reconnecting."""

import asyncio
import itertools
import json

import websockets

from runbus_client.errors import ConnectionLost, RpcError

_MAX_FRAME = 64 << 20
# Notifications of subscriptions whose answer has arrived but whose handler is not set yet.
_MAX_EARLY = 1024


class Connection:
    def __init__(self, socket):
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers = {}
        self._handlers = {}
        self._events = {}
        self._early = []
        self._reader = asyncio.create_task(self._read())
        self.lost = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, url, token, timeout):
        headers = [("Authorization", f"Bearer {token}")] if token else []
        socket = await websockets.connect(
            url, extra_headers=headers, max_size=_MAX_FRAME, max_queue=4, open_timeout=timeout, ping_interval=20, close_timeout=2
        )
        return cls(socket)

    async def call(self, method, params, on_item=None):
        """Sends one call and waits for its answer. `on_item(method, params)` is awaited for each item, so a slow one
        holds the socket back."""
        call_id = next(self._ids)
        answer = asyncio.get_running_loop().create_future()
        self._answers[call_id] = answer
        if on_item is not None:
            self._handlers[call_id] = on_item
        try:
            await self._send({"jsonrpc": "2.0", "id": call_id, "method": method, "params": params})
            return await answer
        except asyncio.CancelledError:
            if not answer.done() or answer.cancelled():
                await self._send({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": call_id}}, quiet=True)
            raise
        finally:
            self._answers.pop(call_id, None)
            self._handlers.pop(call_id, None)

    async def on_event(self, subscription, handler):
        early, self._early = self._early, []
        for method, params in early:
            if params["subscription"] == subscription:
                await handler(method, params)
            else:
                self._early.append((method, params))
        self._events[subscription] = handler

    async def close(self):
        await self._socket.close()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _send(self, message, quiet=False):
        try:
            await self._socket.send(json.dumps(message))
        except websockets.ConnectionClosed as error:
            if not quiet:
                raise ConnectionLost(str(error)) from error

    async def _read(self):
        reason = "the server closed the connection"
        try:
            async for text in self._socket:
                await self._dispatch(json.loads(text))
        except (websockets.ConnectionClosed, ValueError, KeyError, TypeError) as error:
            reason = str(error) or type(error).__name__
        finally:
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(ConnectionLost(reason))
                    answer.exception()  # whoever waits gets it; nobody waiting is no fault
            if not self.lost.done():
                self.lost.set_result(reason)

    async def _dispatch(self, message):
        if "method" in message:
            params = message["params"]
            if "subscription" in params:
                handler = self._events.get(params["subscription"])
                if handler is None and len(self._early) < _MAX_EARLY:
                    self._early.append((message["method"], params))
            else:
                handler = self._handlers.get(params.get("call"))
            if handler is not None:
                await handler(message["method"], params)
            return
        answer = self._answers.get(message.get("id"))
        if answer is None or answer.done():
            return
        if "error" in message:
            answer.set_exception(RpcError(message["error"]))
        else:
            answer.set_result(message["result"])
