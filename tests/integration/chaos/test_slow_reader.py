"""Clients that do not read: their programs block, memory of every process stays within its bound, and calls beside them go on.
RUNBUS_SLOW_SECONDS (3): how long each crowd stays. RUNBUS_SLOW_CALLS (200): how many calls a percentile is of.
RUNBUS_SLOW_READERS (1): sizes of the crowds, "1,200" for DESIGN.md's budget."""

import asyncio
import os
import socket
import statistics
import time

import pytest

from harness.client import Client
from harness.parts import Parts

SECONDS = float(os.environ.get("RUNBUS_SLOW_SECONDS", "3"))
CALLS = int(os.environ.get("RUNBUS_SLOW_CALLS", "200"))
PER_SESSION = 50
# services/README.md "Slow readers": what one stuck stream may cost a process, and what a process may need besides.
PER_STREAM = 1280 << 10
BESIDE = 48 << 20


async def stuck(parts, number):
    """A client whose program prints without end, and that does not read."""
    plain = socket.socket()
    # The kernel's own buffers are not what is tested.
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, parts.client.listen[1:])
    client = await Client(parts, sock=plain, max_queue=1, read_limit=8192).__aenter__()
    call = await client.stream("yes", "bash", config={"timeout": 900}, session_id=f"stuck-{number // PER_SESSION}")
    await call.until(lambda items: len(items) > 1)
    client._reader.cancel()
    await asyncio.gather(client._reader, return_exceptions=True)
    return client, call.items[0][1]["execution_id"]


async def p99(client):
    times = []
    for _ in range(CALLS):
        started = time.perf_counter()
        await client.call("echo.say", {"text": "hello"})
        times.append(time.perf_counter() - started)
    return statistics.quantiles(times, n=100)[98]


async def produced(quick, sessions):
    """{execution: bytes}, once no program prints any more."""
    last = None
    while True:
        now = {}
        for session in range(sessions):
            for each in (await quick.call("execute.list", {"session_id": f"stuck-{session}"}))["executions"]:
                assert each["status"] == "running", each
                now[each["execution_id"]] = each["bytes"]
        if now == last:
            return now
        last = now
        await asyncio.sleep(0.5)


@pytest.mark.parametrize("count", [int(count) for count in os.environ.get("RUNBUS_SLOW_READERS", "1").split(",")])
async def test_readers_that_do_not_read(count, capsys):
    async with Parts(echo=True, worker=["--capacity", "256"]) as parts:
        async with Client(parts) as quick:
            await quick.run("print(1)", session_id="beside")
            await p99(quick)
            before = parts.memory()
            alone = await p99(quick)
            readers = []
            try:
                for number in range(count):
                    readers.append(await stuck(parts, number))
                sessions = (count + PER_SESSION - 1) // PER_SESSION
                blocked = await produced(quick, sessions)
                assert len(blocked) == count
                highest, beside, end = {}, [], time.monotonic() + SECONDS
                while time.monotonic() < end or not beside:
                    beside.append(await p99(quick))
                    for name, size in parts.memory().items():
                        highest[name] = max(highest.get(name, 0), size)
                assert (await quick.run("print('beside')", session_id="beside"))["stdout"] == "beside\n"
                assert await produced(quick, sessions) == blocked, "a program goes on though nobody reads"
            finally:
                # Before the readers go: without them the programs would print as fast as they can.
                for session in range((count + PER_SESSION - 1) // PER_SESSION):
                    await quick.call("session.close", {"session_id": f"stuck-{session}"})
                for client, _ in readers:
                    client.socket.transport.abort()
            growth = {name: size - before.get(name, 0) for name, size in highest.items()}
            with capsys.disabled():
                print(f"\n{count} stuck readers: p99 of an echo {alone * 1000:.2f} ms alone, {statistics.median(beside) * 1000:.2f} ms beside them "
                      f"({statistics.median(beside) / alone:.1f} x, budget 2 x)")
                print("growth in KiB: " + ", ".join(f"{name} {size >> 10}" for name, size in growth.items()))
            for name, size in growth.items():
                share = PER_SESSION if name.startswith("agent") else count
                assert size < share * PER_STREAM + BESIDE, f"{name} grew by {size}"
            # Loose, since the machine may be loaded: a stuck stream must not stop the others.
            assert min(beside) < max(20 * alone, 1.0)
