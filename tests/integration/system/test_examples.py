"""The example workers, in C++ and in Python, serve the running system."""

import asyncio
import contextlib
import os
import subprocess

import pytest

from harness.client import Client, RpcError
from harness.system import BINARY_DIR, PATIENCE, SOURCE_DIR, binary


def bus_socket(system):
    for folder, _, names in os.walk(system.state_dir):
        if "bus.sock" in names:
            return "ipc://" + os.path.join(folder, "bus.sock")
    raise AssertionError("no bus.sock in the state directory")


@contextlib.contextmanager
def worker(argv):
    process = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(BINARY_DIR / "generated" / "python")})
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0


async def offered(client, method):
    """The gateway knows the method."""
    while method not in {each["name"] for each in (await client.call("rpc.discover"))["methods"]}:
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("language,name", [("cpp", "echo"), ("python", "pyecho")])
async def test_example(system, language, name):
    argv = (
        [binary("runbus-example-echo")]
        if language == "cpp"
        else ["/usr/bin/python3", str(SOURCE_DIR / "tools/examples/echo_python/pyecho.py")]
    )
    with worker([*argv, "--broker", bus_socket(system)]) as process:
        async with Client(system) as client:
            await offered(client, f"{name}.say")
            assert (await client.call(f"{name}.say", {"text": "héllo"}))["text"] == "héllo"
            call = await client.start(f"{name}.count", {"to": 5})
            await call.result()
            assert len(call.items) == 5 and call.items[0][0] == f"{name}.counted"
            call = await client.start(f"{name}.chat", {"text": "one"})
            await call.until(lambda items: len(items) == 1)
            await client.notify("$/input", {"id": call.id, "params": {"text": "two"}})
            await call.until(lambda items: len(items) == 2)
            await client.notify("$/cancelRequest", {"id": call.id})
            with pytest.raises(RpcError) as error:
                await call.result()
            assert error.value.code == -32011
            with pytest.raises(RpcError) as error:
                await client.call(f"{name}.say", {"text": 5})
            assert error.value.code == -32602
            assert f"{name}.say" in {m["name"] for m in (await client.call("rpc.discover"))["methods"]}
    assert process.poll() == 0


async def test_a_worker_that_sends_garbage_harms_nobody(system):
    import zmq

    context = zmq.Context()
    try:
        for frames in ([b"junk"], [b"\xff" * 100, b"x"], [b""] * 20, [os.urandom(200_000), b""], [b"\x08\x09", b"\xff" * 1000]):
            junk = context.socket(zmq.DEALER)
            junk.connect(bus_socket(system))
            for _ in range(100):
                junk.send_multipart(frames)
            async with Client(system) as client:
                assert (await client.run("print(1)"))["stdout"] == "1\n"
            junk.close(0)
    finally:
        context.term()
