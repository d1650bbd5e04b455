"""The clients of tools/clients, in Python and TypeScript, over a connection that is cut again and again."""

import asyncio
import json
import os
import sys

from harness.client import Client
from harness.fault_proxy import FaultProxy
from harness.system import PATIENCE, SOURCE_DIR

sys.path.insert(0, str(SOURCE_DIR / "tools" / "clients" / "python"))

import runbus_client  # noqa: E402

EXPECTED = "".join(f"{i:05d}\n" for i in range(2000)) + "from stdin\n"


async def cutting(proxy):
    while True:
        await asyncio.sleep(0.4)
        proxy.cut()


def proxied(system):
    host, port = system.url.rsplit("/", 1)[1].split(":")
    return FaultProxy(("tcp", "127.0.0.1", 0), ("tcp", host, int(port)))


async def test_python_client(system):
    async with proxied(system) as proxy:
        url = f"ws://127.0.0.1:{proxy.listen[2]}/ws"
        async with runbus_client.Client(url, system.token) as client:
            events = client.subscribe(["code_execution.*"])
            first = asyncio.create_task(events.__anext__())
            run = await client.run(
                "import time\nline = input()\nfor i in range(2000):\n    print('%05d' % i, flush=i % 50 == 0)\n"
                "    if i % 50 == 0: time.sleep(0.05)\nprint(line)\nraise SystemExit(3)",
                config={"timeout": 120},
            )
            await run.input("from stdin\n", eof=True)
            cutter = asyncio.create_task(cutting(proxy))
            seen = [item async for item in run]
            cutter.cancel()
            assert [type(item) for item in seen].count(runbus_client.Started) == 1
            assert not [item for item in seen if isinstance(item, runbus_client.Gap)]
            assert b"".join(item.data for item in seen if isinstance(item, runbus_client.Output)).decode() == EXPECTED
            assert (await run.result())["exit_code"] == 3
            assert (await asyncio.wait_for(first, PATIENCE)).topic.startswith("code_execution.")
            await events.aclose()
            sleeper = await client.run("import time; time.sleep(600)")
            await sleeper.input("")
            await sleeper.cancel()
            assert (await sleeper.result())["status"] == "cancelled"
        assert proxy.cuts > 2


TOPICS = ["user.named"] + [f"user.{n}" for n in range(150)]


async def publish_while_cut(system, proxy, subscribed):
    """An event of each topic, most of them while the subscriber has no connection."""
    async with Client(system) as publisher:
        while not subscribed():
            await publisher.call("events.publish", {"topic": "user.ready", "data": {}})
            await asyncio.sleep(0.05)
        for n, topic in enumerate(TOPICS):
            if n % 10 == 0:
                proxy.cut()
                await asyncio.sleep(n % 3 * 0.02)
            await publisher.call("events.publish", {"topic": topic, "data": {}})


async def test_python_client_misses_no_event(system):
    async with proxied(system) as proxy:
        async with runbus_client.Client(f"ws://127.0.0.1:{proxy.listen[2]}/ws", system.token) as client:
            seen, subscribed = [], asyncio.Event()

            async def watch():
                async for event in client.subscribe(["user.*", "user.named"]):
                    if event.topic == "user.ready":
                        subscribed.set()
                        continue
                    seen.append(("event" if isinstance(event, runbus_client.Event) else "lagged", event.topic))
                    if len(seen) == len(TOPICS):
                        return

            watcher = asyncio.create_task(watch())
            await publish_while_cut(system, proxy, subscribed.is_set)
            await asyncio.wait_for(watcher, PATIENCE)
        assert sorted(seen) == sorted(("event", topic) for topic in TOPICS)
        assert proxy.cuts > 10


async def test_typescript_client_misses_no_event(system):
    async with proxied(system) as proxy:
        process = await asyncio.create_subprocess_exec(
            "node", str(SOURCE_DIR / "tests/integration/clients/our_events.mjs"),
            env={**os.environ, "RUNBUS_URL": f"ws://127.0.0.1:{proxy.listen[2]}/ws", "RUNBUS_TOKEN": system.token,
                 "COUNT": str(len(TOPICS))},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )
        try:
            ready = asyncio.create_task(process.stdout.readline())
            await publish_while_cut(system, proxy, ready.done)
            out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, err.decode()
        assert sorted(map(tuple, json.loads(out.splitlines()[-1]))) == sorted(("event", topic) for topic in TOPICS)
        assert proxy.cuts > 10


async def test_typescript_client(system):
    async with proxied(system) as proxy:
        process = await asyncio.create_subprocess_exec(
            "node", str(SOURCE_DIR / "tests/integration/clients/ours.mjs"),
            env={**os.environ, "RUNBUS_URL": f"ws://127.0.0.1:{proxy.listen[2]}/ws", "RUNBUS_TOKEN": system.token},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )
        cutter = asyncio.create_task(cutting(proxy))
        try:
            out, err = await asyncio.wait_for(process.communicate(), 2 * PATIENCE)
        finally:
            cutter.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, err.decode()
        seen = json.loads(out.splitlines()[-1])
        assert (seen["output"], seen["gaps"], seen["started"], seen["exit"]) == (EXPECTED, 0, 1, 3)
        assert (seen["error"], seen["cancelled"]) == (-32007, "cancelled")
        assert seen["event"].startswith("code_execution.")
        assert proxy.cuts > 2
