"""Sessions: opened, shared, closed, and nothing left of them."""

import asyncio
import os
import pathlib
import time

import pytest

from harness.client import Client, RpcError
from harness.system import SLOWDOWN, System, below, wait_until

COUNT = int(os.environ.get("RUNBUS_SESSIONS", "200"))


def footprint(system):
    """What sessions could leave behind, on the host."""
    worker = system.pids("runbus-worker")[0]
    cgroups = sum(len(names) for _, names, _ in os.walk("/sys/fs/cgroup")) if os.path.isdir("/sys/fs/cgroup") else 0
    return {
        "descriptors": len(os.listdir(f"/proc/{worker}/fd")),
        "processes": len(below(system.process.pid)),
        "mounts": len(pathlib.Path("/proc/self/mounts").read_text().splitlines()),
        "cgroups": cgroups,
        "directories": len(os.listdir(node(system, "sandboxes"))) + len(os.listdir(node(system, "pool"))),
        "locks": len(os.listdir(node(system, "locks"))),
    }


def node(system, name):
    return os.path.join(system.state_dir, "node", name)


def pool(system):
    """Directories of the pool's sandboxes, and those of them that wait for a session."""
    made = [os.path.join(node(system, "pool"), name) for name in os.listdir(node(system, "pool"))]
    return made, [os.path.realpath(os.path.join(node(system, "ready"), name)) for name in os.listdir(node(system, "ready"))]


def pool_at_rest(system, size=1):
    def full():
        made, ready = pool(system)
        return len(made) == len(ready) == size and not os.path.exists(os.path.join(node(system, "locks"), "pool"))

    wait_until(full, f"the pool has {size} sandboxes")


def interpreters_at_rest(system):
    """Waits until the sandbox of the pool has its warm interpreters: their parent, its helper, and that one's spare."""

    def parent_of_python(pid):
        try:
            name, _, rest = pathlib.Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            return None  # it has just ended
        return int(rest.split()[1]) if name.startswith("python3") else None

    def at_rest():
        parents = {pid: parent for pid in below(system.process.pid) if (parent := parent_of_python(pid))}
        # A parent that makes its plans has children, but none of those has.
        return len(parents) == 3 and any(parents.get(parents.get(parent)) for parent in parents.values())

    wait_until(at_rest, "the sandbox of the pool has a spare interpreter")


def memory(system):
    worker = system.pids("runbus-worker")[0]
    status = pathlib.Path(f"/proc/{worker}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


async def test_many_sessions_leave_nothing(system):
    async with Client(system) as client:

        async def one(number):
            session = f"loop-{number}"
            opened = await client.call("session.open", {"session_id": session})
            assert opened["session_id"] == session and opened["node"] and opened["engine"]
            assert (await client.run("print(1)", session_id=session))["stdout"] == "1\n"
            await client.call("session.close", {"session_id": session})

        for number in range(8):
            await one(number)
        pool_at_rest(system)
        interpreters_at_rest(system)
        before, resident = footprint(system), memory(system)
        for number in range(8, 8 + COUNT):
            await one(number)
        assert wait_until(lambda: footprint(system) == before, lambda: f"the footprint is {before} again: {footprint(system)}", 30 * SLOWDOWN)
        # A sanitizer keeps what was freed for a while.
        assert memory(system) < resident + (24 << 20) * SLOWDOWN
        assert (await client.call("session.list"))["sessions"] == []


async def test_a_new_session_takes_a_sandbox_of_the_pool():
    with System("--pool", "2") as system:
        async with Client(system) as client:
            pool_at_rest(system, 2)
            ready = set(pool(system)[1])
            assert (await client.run("print(1)", session_id="a"))["stdout"] == "1\n"
            (taken,) = ready - set(pool(system)[1])
            assert os.path.samefile(taken, os.path.join(node(system, "sandboxes"), os.listdir(node(system, "sandboxes"))[0]))
            assert (await client.run("print(1)", session_id="b"))["stdout"] == "1\n"
            # A worker that dies loses neither the session nor what is ready.
            wait_until(lambda: len(pool(system)[1]) == 2, "the pool is full again")
            kept = set(pool(system)[1])
            system.kill("runbus-worker")
            assert (await run_when_back(client, "print(2)", "a"))["stdout"] == "2\n"
            assert kept <= set(pool(system)[1])
            await client.call("session.close", {"session_id": "a"})
            wait_until(lambda: not os.path.exists(taken), "what session a had is gone")


async def test_info_list_and_close(system):
    async with Client(system) as client:
        opened = await client.call("session.open", {"session_id": "known"})
        assert set(opened["enforced"]) >= {"memory", "pids", "cpu", "network"}
        info = await client.call("session.info", {"session_id": "known"})
        assert info["state"] == "running" and info["engine"] == opened["engine"]
        assert "known" in [each["session_id"] for each in (await client.call("session.list"))["sessions"]]
        call = await client.stream("import time\nprint('up', flush=True)\ntime.sleep(600)", session_id="known")
        await call.until(lambda items: b"up" in call.bytes())
        await client.call("session.close", {"session_id": "known"})
        with pytest.raises(RpcError):
            await call.result()
        with pytest.raises(RpcError) as error:
            await client.call("session.info", {"session_id": "known"})
        assert error.value.code == -32007


async def run_when_back(client, code, session_id):
    """Runs `code` once the worker that was killed has attached again."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return await client.run(code, session_id=session_id)
        except RpcError as error:
            if error.code not in (-32601, -32003) or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)


async def test_an_idle_session_is_paused_and_the_next_call_resumes_it():
    with System("--pause-after", "1") as system:
        async with Client(system) as client:
            if (await client.call("session.open", {"session_id": "s"}))["enforced"]["pause"] == "none":
                pytest.skip("SKIPPED: this machine cannot pause sandboxes")
            await client.call("events.subscribe", {"topics": ["session.*"]})

            async def is_in_state(state):
                return (await client.call("session.info", {"session_id": "s"}))["state"] == state

            async def until(condition, what):
                deadline = time.monotonic() + 120
                while not await condition():
                    assert time.monotonic() < deadline, what
                    await asyncio.sleep(0.2)

            # What runs keeps its session awake, whoever reads its output.
            call = await client.stream("import time\ntime.sleep(4)\nprint('done')", session_id="s")
            assert (await call.result())["status"] == "completed"
            events = [p["topic"] for m, p in client.notifications if m == "events.event" and p["data"]["session_id"] == "s"]
            assert "session.paused" not in events
            await until(lambda: is_in_state("paused"), "the session is not paused")
            listed = (await client.call("session.list"))["sessions"]
            assert [(each["session_id"], each["state"]) for each in listed] == [("s", "paused")]
            # Another worker process resumes what this one paused.
            system.kill("runbus-worker")
            again = await run_when_back(client, "print(open('kept', 'w').write('x'))", "s")
            assert again["stdout"] == "1\n"
            assert await is_in_state("running")

            async def saw_both():
                topics = [p["topic"] for m, p in client.notifications if m == "events.event" and p["data"]["session_id"] == "s"]
                return {"session.paused", "session.resumed"} <= set(topics)

            await until(saw_both, "no events")
            await until(lambda: is_in_state("paused"), "the session is not paused again")
            await client.call("session.close", {"session_id": "s"})
            assert (await client.call("session.list"))["sessions"] == []


async def test_a_paused_session_ends_after_its_time():
    with System("--pause-after", "1", "--destroy-after", "3") as system:
        async with Client(system) as client:
            if (await client.call("session.open", {"session_id": "s"}))["enforced"]["pause"] == "none":
                pytest.skip("SKIPPED: this machine cannot pause sandboxes")
            await client.run("print(1)", session_id="s")
            deadline = time.monotonic() + 90
            while (await client.call("session.list"))["sessions"]:
                assert time.monotonic() < deadline, "the session is still there"
                await asyncio.sleep(0.3)


async def test_network_needs_the_operators_leave(system):
    async with Client(system) as client:
        with pytest.raises(RpcError) as error:
            await client.call("session.open", {"session_id": "net", "network": "full"})
        assert error.value.code == -32001


async def test_a_connections_session_ends_after_it():
    with System("--linger", "1") as system:
        async with Client(system) as client:
            session = (await client.call("connection.info"))["session_id"]
            assert (await client.run("print(1)"))["stdout"] == "1\n"
        async with Client(system) as other:

            async def open_sessions():
                return [each["session_id"] for each in (await other.call("session.list"))["sessions"]]

            deadline = time.monotonic() + 120
            while session in await open_sessions():
                assert time.monotonic() < deadline, "the session is still there"
                await asyncio.sleep(0.2)
