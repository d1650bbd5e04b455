"""kill -9 of every part in every state of a call: what the caller sees is what DESIGN.md "Delivery" promises.

The states are held, not met by chance: a worker that is stopped accepts nothing, a program that waits for a line prints nothing
more, and a client that does not read leaves a result where it is. All states of a column are there at once when its part dies."""

import asyncio
import hashlib
import json
import os
import pathlib
import signal
import socket

import pytest

from harness.client import Client, RpcError
from harness.system import PATIENCE, System

# What the caller sees:
RESULT = "result"  # on the same connection: all output, once and in order, and the result
LOST = "lost"  # on the same connection: all output there was, then -32010
AGAIN = "again"  # the connection ends; attaching, or the same call sent again, gives the rest and the result
LOST_AGAIN = "lost again"  # the connection ends; attaching gives all output there was, then -32010
EITHER = "result or again"  # a reply that the kernel had taken from the gateway reaches a client that reads late
OVER = "again or lost again"  # without readers a program goes on, and this one may end before its sandbox does

TABLE = {
    # state                            agent   worker  broker  gateway up
    "queued":                         (RESULT, RESULT, RESULT, AGAIN, AGAIN),
    "dispatched, not accepted":       (RESULT, RESULT, RESULT, AGAIN, AGAIN),
    "accepted, before first output":  (LOST,   RESULT, RESULT, AGAIN, LOST_AGAIN),
    "streaming":                      (LOST,   RESULT, RESULT, AGAIN, LOST_AGAIN),
    "blocked without credit":         (LOST,   RESULT, RESULT, AGAIN, OVER),
    "waiting for standard input":     (LOST,   RESULT, RESULT, AGAIN, LOST_AGAIN),
    "finished, result not delivered": (RESULT, RESULT, RESULT, EITHER, EITHER),
    "attached, running":              (LOST,   RESULT, RESULT, AGAIN, LOST_AGAIN),
    "attached, finished":             (RESULT, RESULT, RESULT, EITHER, EITHER),
}  # fmt: skip
PARTS = ("agent", "worker", "broker", "gateway", "up")

ONCE = "echo x >> ran-$1; wc -l < ran-$1; exit 5"
TICKS = "i=0; while ! read -t 0.05 x; do echo tick $i; i=$((i+1)); done; echo end $i; exit 5"
LINES = 1_200_000  # 8 MB: more than all buffers on the way
PROGRAMS = {
    "queued": ONCE,
    "dispatched, not accepted": ONCE,
    "accepted, before first output": "read x; echo got $x; exit 5",
    "streaming": TICKS,
    "blocked without credit": f"seq 1 {LINES}; exit 5",
    "waiting for standard input": "echo ready; read x; echo got $x; exit 5",
    "finished, result not delivered": "seq 1 100000; exit 5",
    "attached, running": TICKS,
    "attached, finished": "seq 1 100000; exit 5",
}
NOT_READING = ("blocked without credit", "finished, result not delivered", "attached, finished")
NOT_ACCEPTED = ("queued", "dispatched, not accepted")


def is_whole(state, output):
    """Whether `output` is all that the program prints, each byte once."""
    program = PROGRAMS[state]
    if program == TICKS:
        *ticks, end = output.decode().splitlines()
        return ticks == [f"tick {i}" for i in range(len(ticks))] and end == f"end {len(ticks)}"
    if program.startswith("seq"):
        count = LINES if state == "blocked without credit" else 100_000
        return output == b"".join(b"%d\n" % i for i in range(1, count + 1))
    if program == ONCE:
        return output == b"1\n"
    return output == (b"ready\ngot go\n" if "ready" in program else b"got go\n")


def is_beginning(state, output):
    if PROGRAMS[state] == TICKS:
        lines = output.decode().splitlines()
        return lines == [f"tick {i}" for i in range(len(lines))] and len(lines) > 3
    if PROGRAMS[state].startswith("seq"):
        return b"".join(b"%d\n" % i for i in range(1, LINES + 1)).startswith(output) and len(output) > 1_000_000
    return output == (b"ready\n" if "ready" in PROGRAMS[state] else b"")


class Caller:
    """One client with one call in one state."""

    def __init__(self, system, state, number):
        self.system, self.state = system, state
        # What was not accepted has no sandbox yet when the agents die.
        session = "waiting" if state in NOT_ACCEPTED else "running"
        self.names = {"session_id": session, "execution_id": f"e{number}"}
        self.params = {"language": "bash", "code": PROGRAMS[state], "args": [str(number)], "config": {"timeout": 300}, **self.names}

    async def connect(self):
        plain = socket.socket()
        if self.state in NOT_READING:
            # What waits in the kernel is not read either; keep that little.
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        host, port = self.system.url.rpartition("/")[2].split(":")
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, (host, int(port)))
        self.client = await Client(self.system, sock=plain, max_queue=1, read_limit=8192, write_limit=8192).__aenter__()

    async def stop_reading(self):
        self.client._reader.cancel()
        await asyncio.gather(self.client._reader, return_exceptions=True)

    async def start(self, method="execute.code_streaming", params=None):
        self.call = await self.client.start(method, params or self.params)

    async def enter(self, probe):
        """Brings the call into its state; the ones that are not accepted come later."""
        await self.connect()
        if self.state in NOT_ACCEPTED:
            return
        if self.state.startswith("attached"):
            runner = await probe.start("execute.code_streaming", self.params)
            runner.response.add_done_callback(lambda future: future.cancelled() or future.exception())
            await runner.until(lambda items: items)
            if self.state == "attached, finished":
                await runner.result()
            await self.start("execute.attach", self.names)
        else:
            await self.start()
        await self.call.until(lambda items: items)  # execute.started
        if self.state in NOT_READING:
            await self.call.until(lambda items: len(items) > 1)
            await self.stop_reading()
        await self.until_held(probe)

    async def until_held(self, probe):
        if PROGRAMS[self.state] == TICKS:
            await self.call.until(lambda items: b"tick 5" in self.call.bytes())
        elif "ready" in PROGRAMS[self.state]:
            await self.call.until(lambda items: self.call.bytes() == b"ready\n")
        last = None
        while self.state in NOT_READING:
            info = await self.info(probe)
            if self.state == "blocked without credit":
                assert info["status"] == "running", info
                if info["bytes"] == last:
                    break
                last = info["bytes"]
            elif info["status"] == "failed":
                break
            await asyncio.sleep(0.3)

    async def info(self, probe):
        listed = await probe.call("execute.list", {"session_id": self.names["session_id"]})
        return next(each for each in listed["executions"] if each["execution_id"] == self.names["execution_id"])

    async def release(self, probe):
        """Reads on, and lets a program that waits for it end."""
        if self.state in NOT_READING:
            self.client._reader = asyncio.create_task(self.client._read())
        if "read" not in PROGRAMS[self.state]:
            return
        try:
            await asyncio.wait_for(self._send_line(probe), PATIENCE)
        except RpcError as error:
            assert error.code == -32007, error  # it has gone

    async def _send_line(self, probe):
        while True:
            try:
                return await probe.call("execute.input", {**self.names, "text": "go\n"})
            except RpcError as error:
                if error.code not in (-32003, -32004, -32006, -32010, -32012, -32601):
                    raise
            await asyncio.sleep(0.1)

    async def outcome(self):
        """What the caller sees, in the words of the table; or what was wrong."""
        prefix, before = "", b""
        try:
            result = await self.call.result()
        except RpcError as error:
            result = error
            # The worker took longer to come back than the broker waits: nothing was run, and a retry makes sense.
            if error.code == -32003 and self.state in NOT_ACCEPTED:
                result = await self.retried()
        except asyncio.TimeoutError:
            return f"no answer, {len(self.call.bytes())} bytes"
        except ConnectionError:
            prefix, before = "again", self.call.bytes()
            result = await self.call_again(len(before))
        extra = [entry for entry in self.client.notifications if entry[0] == "unexpected response"]
        output = before + self.call.bytes() if prefix else self.call.bytes()
        if extra:
            return f"answered twice: {extra}"
        if isinstance(result, RpcError):
            if result.code != -32010:
                return f"error {result}"
            return ("lost " + prefix).strip() if is_beginning(self.state, output) else f"lost with {output[:100]!r}, {len(output)} bytes"
        if result["exit_code"] != 5 or result["bytes"] != len(output) or not is_whole(self.state, output):
            return f"{result} with {output[:100]!r}, {len(output)} bytes"
        return prefix or RESULT

    async def call_again(self, offset):
        await self.client.__aexit__()
        self.client = await again(self.system)
        return await self.retried(offset)

    async def retried(self, offset=0):
        while True:
            if self.state in NOT_ACCEPTED:
                await self.start()
            else:
                await self.start("execute.attach", {**self.names, "offset": offset})
            try:
                return await self.call.result()
            except RpcError as error:
                if error.code not in (-32003, -32601):  # no worker is back yet
                    return error
            await asyncio.sleep(0.1)


async def hold_at_the_broker(system, queued, dispatched):
    """Stops the worker, so that one call has been given to it and another waits behind all it may have."""
    worker = system.pids("runbus-worker")[0]
    os.kill(worker, signal.SIGSTOP)
    await dispatched.start()
    fillers = []
    # The client that fills the queue also asks how full it is: the broker answers that itself.
    async with Client(system) as stats:
        for _ in range(3):
            client = await Client(system).__aenter__()
            fillers.append((client, [await client.start("execute.languages") for _ in range(200)]))
        async with asyncio.timeout(PATIENCE):
            while (await stats.call("bus.stats"))["queued_calls"] < 50:
                await asyncio.sleep(0.02)
        await queued.start()
        assert (await stats.call("bus.stats"))["queued_calls"] > 50
    return worker, fillers


def agent_pid(system, session):
    key = hashlib.sha256(session.encode()).hexdigest()[:32]
    state = pathlib.Path(system.state_dir, "node", "sandboxes", key, "engine.json")
    return json.loads(state.read_text())["first"]["pid"]


def kill(system, part, worker):
    if part == "agent":
        os.kill(agent_pid(system, "running"), signal.SIGKILL)
    elif part == "up":
        system.process.kill()
        system.process.wait()
        system.process.stdout.close()
    else:
        system.kill("runbus-" + part)
    if part != "worker":
        os.kill(worker, signal.SIGCONT)


@pytest.mark.parametrize("part", PARTS)
async def test_what_the_caller_sees(part):
    system = System("--max-sessions", "8")
    callers = [Caller(system, state, number) for number, state in enumerate(TABLE)]
    clients = []
    try:
        system.start()
        probe = await Client(system).__aenter__()
        clients.append(probe)
        for caller in callers:
            await caller.enter(probe)
        worker, fillers = await hold_at_the_broker(system, callers[0], callers[1])
        clients += [client for client, _ in fillers]
        kill(system, part, worker)
        if part == "up":
            system.start()
        if part in ("gateway", "up"):
            probe = await again(system)
            clients.append(probe)
        await asyncio.gather(*(caller.release(probe) for caller in callers))
        outcomes = dict(zip(TABLE, await asyncio.gather(*(caller.outcome() for caller in callers))))
        promised = {state: row[PARTS.index(part)] for state, row in TABLE.items()}
        broken = {state: (seen, promised[state]) for state, seen in outcomes.items() if seen not in promised[state].split(" or ")}
        assert not broken
        if part not in ("gateway", "up"):
            answers = await asyncio.gather(*(call.result() for _, calls in fillers for call in calls), return_exceptions=True)
            wrong = [answer for answer in answers if not isinstance(answer, dict) and getattr(answer, "code", None) != -32003]
            assert len(answers) == 600 and not wrong
        for caller in callers:
            if caller.state not in NOT_ACCEPTED:
                await check_kept(caller, probe, outcomes[caller.state])
        # The session goes on, in a new sandbox if need be.
        assert (await probe.run("print('on')", session_id="running"))["stdout"] == "on\n"
    finally:
        for client in clients + [caller.client for caller in callers if hasattr(caller, "client")]:
            client._reader.cancel()
            client.socket.transport.abort()
        if system.process is not None and system.process.returncode is None:
            system.stop(check=False)


async def again(system):
    while True:
        try:
            return await Client(system).__aenter__()
        except Exception:
            await asyncio.sleep(0.1)


async def check_kept(caller, probe, outcome):
    """Whoever attaches afterwards sees the same."""
    info = await caller.info(probe)
    assert info["status"] == ("lost" if outcome.startswith("lost") else "failed"), (caller.state, info)
    attached = await probe.start("execute.attach", {**caller.names, "offset": max(0, info["bytes"] - 5)})
    if outcome.startswith("lost"):
        with pytest.raises(RpcError) as error:
            await attached.result()
        assert error.value.code == -32010
    else:
        assert (await attached.result())["exit_code"] == 5
    assert len(attached.bytes()) == min(5, info["bytes"])
