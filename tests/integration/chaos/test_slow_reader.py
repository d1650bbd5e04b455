"""Clients that do not read: their programs block, memory stays bounded, and calls beside them go on. RUNBUS_SLOW_SECONDS (15)."""

import asyncio
import os
import statistics
import time

from harness.client import Client
from harness.parts import Parts

SECONDS = float(os.environ.get("RUNBUS_SLOW_SECONDS", "15"))
# A gateway keeps at most a stream's credit and the socket's buffers for each; the rest is the programs' own pipes.
BOUND = 96 << 20


async def stuck(parts, session):
    client = Client(parts, max_queue=1)
    await client.__aenter__()
    call = await client.stream("yes", "bash", config={"timeout": 300}, session_id=session)
    await call.until(lambda items: len(items) > 2)
    client._reader.cancel()
    await asyncio.gather(client._reader, return_exceptions=True)
    return client, {key: call.items[0][1][key] for key in ("execution_id", "session_id")}


async def pings(client, count):
    times = []
    for _ in range(count):
        started = time.perf_counter()
        await client.call("bus.stats")
        times.append(time.perf_counter() - started)
    return statistics.quantiles(times, n=100)[98]


async def test_a_reader_that_does_not_read(capsys):
    async with Parts() as parts:
        async with Client(parts) as quick:
            await quick.run("print(1)")
            without = await pings(quick, 300)
            readers = [await stuck(parts, f"stuck-{i}") for i in range(4)]
            before = parts.memory()
            highest = dict(before)
            end = time.monotonic() + SECONDS
            beside = 0.0
            while time.monotonic() < end:
                beside = max(beside, await pings(quick, 100))
                for name, size in parts.memory().items():
                    highest[name] = max(highest[name], size)
            for name, size in highest.items():
                assert size < before[name] + BOUND, f"{name} grew from {before[name]} to {size}"

            async def produced():
                return [
                    (await quick.call("execute.list", {"session_id": names["session_id"]}))["executions"][0]["bytes"] for _, names in readers
                ]

            first = await produced()
            assert (await quick.run("print('beside')"))["stdout"] == "beside\n"
            assert await produced() == first, "a program goes on though nobody reads"
            with capsys.disabled():
                print(f"p99 of a call: {without * 1000:.1f} ms alone, {beside * 1000:.1f} ms at worst beside 4 stuck readers; memory {highest}")
            # Loose, since the machine may be loaded: a stuck stream must not stop the others.
            assert beside < max(20 * without, 1.0)
            for client, names in readers:
                await quick.call("execute.cancel", names)
                client.socket.transport.abort()
