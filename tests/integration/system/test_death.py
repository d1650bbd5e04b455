"""kill -9 of each part under load: exactly one reply for each call or the connection ends, and work goes on. Each state of a
call: test_death_table.py."""

import asyncio
import fcntl
import hashlib
import os
import pathlib
import time

import pytest

from harness.client import Client, RpcError
from harness.system import System, wait_until


@pytest.fixture
def system():
    # One of its own for each test: what it kills is not another test's.
    with System() as running:
        yield running


async def load(system, seconds, outcomes, killed):
    """Calls one after another; notes how each ended. Reconnects when the connection ends."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            async with Client(system) as client:
                while time.monotonic() < end:
                    call = await client.start("execute.code", {"code": "print(1)"})
                    try:
                        result = await call.result()
                        assert result["stdout"] == "1\n", result
                        outcomes.append(("ok", time.monotonic()))
                    except RpcError as error:
                        outcomes.append((error.code, time.monotonic()))
                        await asyncio.sleep(0.05)
                    unexpected = [entry for entry in client.notifications if entry[0] == "unexpected response"]
                    assert not unexpected, f"a call was answered twice: {unexpected}"
        except (ConnectionError, OSError, EOFError) as error:
            outcomes.append((type(error).__name__, time.monotonic()))
            await asyncio.sleep(0.05)
        except Exception as error:  # the handshake met a gateway that was just dying
            if type(error).__module__.startswith("websockets"):
                outcomes.append((type(error).__name__, time.monotonic()))
                await asyncio.sleep(0.05)
            else:
                raise


@pytest.mark.parametrize("program", ["runbus-worker", "runbus-broker", "runbus-gateway"])
async def test_kill_9_under_load(system, program):
    outcomes = []
    killed = []
    if program == "runbus-gateway":
        # The port must be the same for the clients after the restart.
        old_url = system.ws_url
    tasks = [asyncio.create_task(load(system, 14, outcomes, killed)) for _ in range(8)]
    await asyncio.sleep(3)
    assert any(outcome == "ok" for outcome, _ in outcomes), "the load runs"
    pid = system.kill(program)
    moment = time.monotonic()
    await asyncio.gather(*tasks)
    assert wait_until(lambda: [p for p in system.pids(program) if p != pid], f"{program} is back")
    after = [when - moment for outcome, when in outcomes if outcome == "ok" and when > moment]
    assert after, f"nothing worked after the death of {program}: {outcomes[-5:]}"
    if program == "runbus-gateway":
        assert system.ws_url == old_url
    # The last third of the load, 4 s and more after the death, sees no failures.
    late = [outcome for outcome, when in outcomes if when > moment + 6 and outcome != "ok"]
    assert not late, late


def waits_for(lock):
    """Pids of the processes that wait for this flock."""
    inode = os.fstat(lock.fileno()).st_ino
    lines = (line.split() for line in pathlib.Path("/proc/locks").read_text().splitlines())
    return [int(words[5]) for words in lines if words[1] == "->" and words[6].endswith(f":{inode}")]


@pytest.mark.parametrize("method", ["execute.code", "execute.code_streaming"])
async def test_a_call_whose_sandbox_is_still_being_made_outlives_its_worker(system, method):
    locks = pathlib.Path(system.state_dir, "node", "locks")
    key = hashlib.sha256(b"held").hexdigest()[:32]
    with open(locks / key, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as lock:
        # A worker has accepted the call and gets no further.
        fcntl.flock(lock, fcntl.LOCK_EX)
        async with Client(system) as client:
            call = await client.start(method, {"code": "print('ran')", "session_id": "held"})
            await asyncio.to_thread(wait_until, lambda: waits_for(lock), "the worker waits for the sandbox")
            killed = system.kill("runbus-worker")
            await asyncio.to_thread(wait_until, lambda: set(waits_for(lock)) - {killed}, "the next worker does")
            fcntl.flock(lock, fcntl.LOCK_UN)
            result = await call.result()
            assert result["exit_code"] == 0
            assert result.get("stdout", call.bytes().decode()) == "ran\n"
