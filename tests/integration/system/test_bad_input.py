"""Bad input: a clear error each time, and nothing else harmed."""

import asyncio
import json
import socket
import time

import pytest
import websockets

from harness.client import Client, RpcError
from harness.system import PATIENCE


async def raw(system):
    return await websockets.connect(
        system.ws_url, extra_headers=[("Authorization", f"Bearer {system.token}")], max_size=None, open_timeout=PATIENCE
    )


async def ask(connection, text):
    await connection.send(text)
    return json.loads(await asyncio.wait_for(connection.recv(), PATIENCE))


async def still_works(system):
    async with Client(system) as client:
        assert (await client.call("connection.ping"))["pong"] is True


@pytest.mark.parametrize(
    "text,code,says",
    [
        ("{oops", -32700, None),
        ("[" * 100000, None, None),
        ("[]", -32600, None),
        ('{"jsonrpc":"2.0","id":1,"method":"no.such_method"}', -32601, "no.such_method"),
        ('{"jsonrpc":"2.0","id":1,"method":"execute.code","params":{"code":7}}', -32602, "code"),
        ('{"jsonrpc":"2.0","id":1,"method":"execute.code","params":{"config":{"timeout":"x"},"code":"1"}}', -32602, "config.timeout"),
        ('{"jsonrpc":"2.0","id":1,"method":"execute.code","params":{"bogus":1}}', -32602, "bogus"),
        ('{"jsonrpc":"2.0","id":1,"method":"execute.code","params":{"code":"x","language":"klingon"}}', -32005, "Unsupported language: klingon"),
        ('{"jsonrpc":"2.0","id":1,"method":"execute.code","params":{"code":""}}', -32005, "No code provided for execution"),
        ('{"jsonrpc":"2.0","id":1,"method":"execute.code","params":{"code":"x","files":[{"path":"../x","text":""}]}}', -32005, "files[0].path"),
        ('{"jsonrpc":"2.0","id":1,"method":"execute.code","params":{"code":"x","session_id":"../etc"}}', -32602, "session_id"),
        ('{"jsonrpc":"2.0","id":1,"method":"session.release","params":{}}', -32601, None),
    ],
)
async def test_request(system, text, code, says):
    connection = await raw(system)
    try:
        reply = await ask(connection, text)
        assert "result" not in reply
        if code is not None:
            assert reply["error"]["code"] == code, reply
        if says is not None:
            assert says in reply["error"]["data"]["detail"], reply
        # The same connection goes on.
        assert (await ask(connection, '{"jsonrpc":"2.0","id":9,"method":"connection.ping"}'))["result"]["pong"]
    finally:
        await connection.close()
    await still_works(system)


async def test_hundred_megabyte_frame(system):
    connection = await raw(system)
    with pytest.raises(websockets.ConnectionClosed):
        await connection.send("x" * 100_000_000)
        await asyncio.wait_for(connection.recv(), PATIENCE)
    assert connection.close_code in (1009, 1006)
    await still_works(system)


async def test_binary_frame(system):
    connection = await raw(system)
    try:
        await connection.send(b"\x00\x01")
        try:
            reply = json.loads(await asyncio.wait_for(connection.recv(), PATIENCE))
            assert reply["error"]["code"] == -32600 and "binary" in reply["error"]["data"]["detail"]
        except websockets.ConnectionClosed as closed:
            assert closed.code == 1003
    finally:
        await connection.close()
    await still_works(system)


@pytest.mark.parametrize(
    "headers,status",
    [
        ([], 401),
        ([("Authorization", "Bearer wrong")], 401),
        ([("Authorization", "Bearer TOKEN"), ("Origin", "https://evil.example")], 403),
        ([("Authorization", "Bearer TOKEN"), ("Origin", "null")], 403),
    ],
)
async def test_handshake_is_refused(system, headers, status):
    headers = [(name, value.replace("TOKEN", system.token)) for name, value in headers]
    with pytest.raises(websockets.InvalidStatusCode) as refused:
        await websockets.connect(system.ws_url, extra_headers=headers, open_timeout=PATIENCE)
    assert refused.value.status_code == status
    await still_works(system)


async def test_slow_handshake_is_cut(system):
    host, port = system.url.rsplit("/", 1)[1].split(":")
    loop = asyncio.get_running_loop()
    with socket.create_connection((host, int(port)), PATIENCE) as slow:
        slow.sendall(b"GET /ws HTTP/1.1\r\nHost: x\r\n")
        await still_works(system)
        slow.settimeout(PATIENCE)
        started = time.monotonic()
        try:
            answer = await loop.run_in_executor(None, slow.recv, 4096)
        except ConnectionResetError:
            answer = b""
        assert answer == b"" or answer.startswith(b"HTTP/1.1 408"), answer
        assert time.monotonic() - started < PATIENCE


async def test_a_duplicate_id_in_flight_is_refused(system):
    connection = await raw(system)
    try:
        call = {"jsonrpc": "2.0", "id": 1, "method": "execute.code", "params": {"code": "import time; time.sleep(2)"}}
        await connection.send(json.dumps(call))
        reply = await ask(connection, json.dumps(call))
        assert reply["error"]["code"] == -32600, reply
        reply = json.loads(await asyncio.wait_for(connection.recv(), PATIENCE))
        assert reply["id"] == 1 and reply["result"]["exit_code"] == 0
    finally:
        await connection.close()


async def test_batch_runs_at_once_and_answers_in_one_array(system):
    connection = await raw(system)
    try:
        code = "import time; time.sleep(1.5); print(1)"
        batch = [
            {"jsonrpc": "2.0", "id": i, "method": "execute.code", "params": {"code": code}} for i in range(4)
        ] + [{"jsonrpc": "2.0", "method": "connection.ping"}, {"foo": "bar"}]
        await connection.send(json.dumps(batch))
        reply = json.loads(await asyncio.wait_for(connection.recv(), PATIENCE))
        assert isinstance(reply, list) and len(reply) == 5
        assert sorted(entry["id"] for entry in reply if entry["id"] is not None) == [0, 1, 2, 3]
        assert [entry["error"]["code"] for entry in reply if "error" in entry] == [-32600]
    finally:
        await connection.close()


async def test_unknown_execution_is_not_found(system):
    async with Client(system) as client:
        for method, params in (
            ("execute.input", {"text": "x"}), ("execute.signal", {"signal": "INT"}), ("execute.cancel", {}), ("execute.attach", {}),
        ):
            with pytest.raises(RpcError) as error:
                await client.call(method, {"execution_id": "nobody", **params})
            assert error.value.code == -32007, method
