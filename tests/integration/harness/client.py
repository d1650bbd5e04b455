"""A JSON-RPC client over Debian's python3-websockets: nothing of ours between test and gateway."""

import asyncio
import itertools
import json
import time

import websockets

from harness.system import PATIENCE


class RpcError(Exception):
    def __init__(self, error):
        super().__init__(json.dumps(error))
        self.code = error["code"]
        self.data = error.get("data") or {}
        self.message = error["message"]


class Call:
    """A call in progress: its items as they come, and its response."""

    def __init__(self, call_id):
        self.id = call_id
        self.items = []
        self.response = asyncio.get_running_loop().create_future()
        self._changed = asyncio.Event()

    def _add(self, item):
        self.items.append(item)
        self._changed.set()

    async def until(self, condition, timeout=PATIENCE):
        """Waits until condition(items) gives something true, and returns that."""

        async def look():
            while True:
                value = condition(self.items)
                if value:
                    return value
                assert not self.response.done(), f"the call ended before: {self.response}"
                self._changed.clear()
                await self._changed.wait()

        return await asyncio.wait_for(look(), timeout)

    async def result(self, timeout=PATIENCE):
        return await asyncio.wait_for(asyncio.shield(self.response), timeout)

    def bytes(self, stream=None):
        """What the program printed so far, by the items."""
        return b"".join(
            content(params) for method, params in self.items if method == "execute.output" and stream in (None, params["stream"])
        )


def content(params):
    if "text" in params:
        return params["text"].encode()
    import base64

    return base64.b64decode(params["data"])


class Client:
    def __init__(self, system=None, url=None, token=None, **options):
        self.url = url or system.ws_url
        self.token = token if token is not None else system.token
        self.options = options
        self._ids = itertools.count(1)
        self._calls = {}
        self.notifications = []
        self._changed = asyncio.Event()

    async def __aenter__(self):
        options = {"max_size": None, "ping_interval": None, "open_timeout": PATIENCE, **self.options}
        headers = [("Authorization", f"Bearer {self.token}"), *options.pop("headers", [])]
        self.socket = await websockets.connect(self.url, extra_headers=headers, **options)
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_):
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self.socket.close()

    async def _read(self):
        try:
            async for text in self.socket:
                message = json.loads(text)
                if "method" in message:
                    call = self._calls.get(message["params"].get("call"))
                    if call is not None:
                        call._add((message["method"], message["params"]))
                    else:
                        self.notifications.append((message["method"], message["params"]))
                        self._changed.set()
                    continue
                call = self._calls.get(message.get("id"))
                if call is None or call.response.done():
                    self.notifications.append(("unexpected response", message))
                elif "error" in message:
                    call.response.set_exception(RpcError(message["error"]))
                else:
                    call.response.set_result(message["result"])
                if call is not None:
                    call._changed.set()
            raise ConnectionError("the gateway closed the connection")
        except (websockets.ConnectionClosed, ConnectionError) as error:
            for call in self._calls.values():
                if not call.response.done():
                    call.response.set_exception(ConnectionError(str(error)))
                    call.response.exception()
                call._changed.set()

    async def start(self, method, params=None, call_id=None):
        call = Call(next(self._ids) if call_id is None else call_id)
        self._calls[call.id] = call
        await self.socket.send(
            json.dumps({"jsonrpc": "2.0", "id": call.id, "method": method, "params": params or {}})
        )
        return call

    async def call(self, method, params=None, timeout=PATIENCE):
        return await (await self.start(method, params)).result(timeout)

    async def notify(self, method, params=None):
        await self.socket.send(json.dumps({"jsonrpc": "2.0", "method": method, "params": params or {}}))

    async def run(self, code, language="python", **params):
        return await self.call("execute.code", {"code": code, "language": language, **params})

    async def stream(self, code, language="python", **params):
        return await self.start("execute.code_streaming", {"code": code, "language": language, **params})

    async def notification(self, condition, timeout=PATIENCE):
        async def look():
            looked_at = 0
            while True:
                for entry in self.notifications[looked_at:]:
                    if condition(*entry):
                        return entry
                looked_at = len(self.notifications)
                self._changed.clear()
                await self._changed.wait()

        return await asyncio.wait_for(look(), timeout)


async def warm_run(client, params):
    """The result of a run that a spare interpreter served; until one is ready, runs start cold."""
    deadline = time.monotonic() + PATIENCE
    while True:
        result = await client.call("execute.code", params)
        if result["usage"]["warm"]:
            return result
        assert time.monotonic() < deadline, f"no run was warm: {result}"
