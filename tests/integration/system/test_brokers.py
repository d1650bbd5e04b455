"""Two brokers at once and the death of either; a broker that has just started and knows nothing yet."""

import asyncio
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import pytest

from harness.client import Client, RpcError
from harness.system import PATIENCE, System, binary, wait_until

SLOW = "import time\nfor i in range(60):\n    print(i, flush=True)\n    time.sleep(0.1)\nraise SystemExit(5)"
LINES = b"".join(b"%d\n" % i for i in range(60))


class Program:
    """One more part beside those of `up`, attached to its brokers."""

    def __init__(self, *argv):
        read, write = os.pipe()
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [*argv, "--ready-fd", str(write)], pass_fds=[write], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )
        os.close(write)
        with os.fdopen(read) as ready:
            self.ready = ready.readline().strip()
        if not self.ready:
            self.log.seek(0)
            raise AssertionError(self.log.read().decode(errors="replace"))

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def argv_of(pid):
    return pathlib.Path("/proc", str(pid), "cmdline").read_bytes().decode().split("\0")


def endpoints(system):
    """The brokers' sockets, in the order in which all prefer them."""
    argv = argv_of(wait_until(lambda: system.pids("runbus-gateway"), "the gateway runs")[0])
    return [argv[i + 1] for i, part in enumerate(argv) if part == "--broker"]


def broker_pid(system, number):
    endpoint = endpoints(system)[number - 1]
    found = [pid for pid in system.pids("runbus-broker") if endpoint in argv_of(pid)]
    return found[0] if found else None


def kill_broker(system, number):
    pid = wait_until(lambda: broker_pid(system, number), f"broker {number} runs")
    os.kill(pid, signal.SIGKILL)
    return pid


class Gateway(Program):
    """A second gateway, which prefers the second broker."""

    def __init__(self, system):
        brokers = [part for endpoint in reversed(endpoints(system)) for part in ("--broker", endpoint)]
        super().__init__(
            binary("runbus-gateway"), "--listen", "127.0.0.1:0", *brokers, "--token-file", os.path.join(system.state_dir, "token")
        )
        self.ws_url = f"ws://{self.ready}/ws"
        self.token = system.token


async def epoch(client):
    return (await client.call("bus.stats"))["epoch"]


async def connected(gateway):
    """A client of a gateway that has just started, once calls can be made."""
    client = await Client(gateway).__aenter__()
    for _ in range(int(PATIENCE * 10)):
        try:
            await client.run("pass")
            return client
        except RpcError as error:
            assert error.data["retryable"], error
            await asyncio.sleep(0.1)
    raise AssertionError("no call can be made by way of the second gateway")


async def test_everything_goes_on_when_either_of_two_brokers_dies():
    with System("--brokers", "2") as system:
        gateway = Gateway(system)
        try:
            async with Client(system) as first:
                second = await connected(gateway)
                epochs = [await epoch(first), await epoch(second)]
                assert epochs[0] != epochs[1], "each has its own first broker"
                for number in (1, 2):
                    await one_dies(system, number, first, second)
                    # It is started again, and used again by whoever prefers it.
                    client = (first, second)[number - 1]
                    for _ in range(int(PATIENCE * 5)):
                        now = await epoch(client)
                        if now not in epochs:
                            break
                        await asyncio.sleep(0.2)
                    assert now not in epochs
                    epochs[number - 1] = now
                for client in (first, second):
                    assert not [entry for entry in client.notifications if entry[0] == "unexpected response"]
                workers = (await first.call("bus.workers"))["workers"]
                assert [worker["calls"] for worker in workers] == [0], "no call that went elsewhere is still counted"
                await second.__aexit__()
        finally:
            gateway.stop()


async def one_dies(system, number, first, second):
    streams = [await client.stream(SLOW) for client in (first, second)]
    for stream in streams:
        await stream.until(lambda items: b"5\n" in stream.bytes())
    kill_broker(system, number)
    # New calls work by way of the other one, in sessions of before as well.
    results = await asyncio.gather(*(client.run("print(6 * 7)") for client in (first, second)))
    assert [result["stdout"] for result in results] == ["42\n", "42\n"]
    for stream in streams:
        assert (await stream.result())["exit_code"] == 5
        assert stream.bytes() == LINES
        assert [method for method, _ in stream.items].count("execute.started") == 1


async def test_under_load_no_call_fails_when_a_broker_dies():
    with System("--brokers", "2", "--workers", "2") as system:
        answers = 0
        done = asyncio.Event()

        async def load():
            nonlocal answers
            async with Client(system) as client:
                while not done.is_set():
                    result = await client.run("print(1)")
                    assert (result["stdout"], result["exit_code"]) == ("1\n", 0)
                    answers += 1
                assert not client.notifications, "a call was answered twice"

        async def more(count):
            wanted = answers + count
            while answers < wanted:
                assert not any(task.done() for task in tasks), "a call failed"
                await asyncio.sleep(0.05)

        tasks = [asyncio.create_task(load()) for _ in range(4)]
        await asyncio.wait_for(more(8), PATIENCE)
        for number in (1, 2, 1):
            old = kill_broker(system, number)
            await asyncio.wait_for(more(12), PATIENCE)
            wait_until(lambda: broker_pid(system, number) not in (None, old), "the broker is started again")
        done.set()
        await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)


class Bus:
    """Brokers, a gateway and two nodes, started by hand, so that a broker stays dead until it shall come back. Silence
    counts late here: what goes on soon after a death does so without waiting for that."""

    def __init__(self, brokers):
        self.dir = tempfile.mkdtemp(prefix="rb-")
        self.token = "token-of-the-broker-tests"
        with open(os.path.join(self.dir, "token"), "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(self.token)
        self.brokers = []
        self.workers = {}
        self.gateway = None
        self.sockets = [f"ipc://{self.dir}/b{number}" for number in range(brokers)]

    def __enter__(self):
        try:
            for number in range(len(self.sockets)):
                self.brokers.append(self.broker(number))
            for node in ("one", "other"):
                self.workers[node] = self.worker(node)
            self.gateway = Program(
                binary("runbus-gateway"), "--listen", "127.0.0.1:0", *self.broker_flags(), "--token-file", f"{self.dir}/token"
            )
            self.ws_url = f"ws://{self.gateway.ready}/ws"
        except BaseException:
            self.__exit__()
            raise
        return self

    def broker_flags(self):
        return [part for socket in self.sockets for part in ("--broker", socket)]

    def worker(self, node):
        return Program(
            binary("runbus-worker"), "execution", *self.broker_flags(), "--node", node, "--state-dir", f"{self.dir}/{node}"
        )

    def restart_workers(self):
        for node, old in self.workers.items():
            old.process.kill()
            old.process.wait()
            self.workers[node] = self.worker(node)

    def broker(self, number):
        return Program(
            binary("runbus-broker"), "--listen", self.sockets[number], "--events-listen", f"ipc://{self.dir}/e{number}",
            "--heartbeat-timeout-ms", "10000",
        )

    def kill(self, number):
        self.brokers[number].process.kill()
        self.brokers[number].process.wait()

    def restart(self, number):
        self.brokers[number] = self.broker(number)

    def __exit__(self, *_):
        for part in [self.gateway, *self.workers.values(), *self.brokers]:
            if part is not None:
                part.stop()
        failures = []
        for node in self.workers:
            done = subprocess.run(
                [binary("runbus-worker"), "--destroy-sessions", "--state-dir", f"{self.dir}/{node}"], capture_output=True, check=False
            )
            failures += [done.stderr] if done.returncode else []
        shutil.rmtree(self.dir, ignore_errors=True)
        assert not failures, failures


async def sessions_of_both_nodes(client):
    """Four named sessions, two of each node, each with a file of its own."""
    nodes = {}
    for number in range(40):
        session = f"kept-{number}"
        node = (await client.call("session.open", {"session_id": session}))["node"]
        if list(nodes.values()).count(node) < 2:
            nodes[session] = node
            await client.run(f"open('mark', 'w').write('{session}')", session_id=session)
        else:
            await client.call("session.close", {"session_id": session})
        if len(nodes) == 4:
            break
    assert sorted(nodes.values()) == ["one", "one", "other", "other"], nodes
    return list(nodes)


async def marks(client, sessions):
    runs = (client.run("print(open('mark').read())", session_id=session) for session in sessions)
    return [result["stdout"].strip() for result in await asyncio.gather(*runs)]


async def test_a_broker_that_comes_back_finds_each_session_on_its_node():
    with Bus(brokers=1) as bus:
        client = await connected(bus)
        sessions = await sessions_of_both_nodes(client)
        # The workers come back one after the other, the second one when the calls are waiting already.
        for late in bus.workers.values():
            late.process.send_signal(signal.SIGSTOP)
            try:
                bus.kill(0)
                bus.restart(0)
                looking = asyncio.create_task(marks(client, sessions))
                await attached(client, 1)
                assert not looking.done()
            finally:
                late.process.send_signal(signal.SIGCONT)
            assert await looking == sessions
        await client.__aexit__()


async def attached(client, workers):
    for _ in range(int(PATIENCE * 10)):
        try:
            if len((await client.call("bus.workers"))["workers"]) == workers:
                return
        except RpcError as error:
            assert error.data["retryable"], error
        await asyncio.sleep(0.1)
    raise AssertionError(f"not {workers} workers")


async def test_a_broker_that_comes_back_finds_the_output_of_sessions_that_have_ended():
    with Bus(brokers=1) as bus:
        client = await connected(bus)
        sessions = await sessions_of_both_nodes(client)
        for session in sessions:
            await client.run(f"print('{session}')", session_id=session, execution_id=f"e-{session}")
            await client.call("session.close", {"session_id": session})
        bus.kill(0)
        bus.restart(0)
        bus.restart_workers()
        await attached(client, 2)
        for session in sessions:
            stream = await client.start("execute.attach", {"execution_id": f"e-{session}", "session_id": session})
            assert (await stream.result())["exit_code"] == 0
            assert stream.bytes() == session.encode() + b"\n"
        await client.__aexit__()


async def test_a_second_broker_knows_the_node_of_each_session():
    with Bus(brokers=2) as bus:
        client = await connected(bus)
        sessions = await sessions_of_both_nodes(client)
        bus.kill(0)
        assert await marks(client, sessions) == sessions
        bus.restart(0)
        bus.kill(1)
        assert await marks(client, sessions) == sessions
        await client.__aexit__()


async def test_a_call_waits_for_the_workers_of_a_broker_that_has_just_started():
    with Bus(brokers=1) as bus:
        client = await connected(bus)
        for worker in bus.workers.values():
            worker.process.send_signal(signal.SIGSTOP)
        try:
            bus.kill(0)
            bus.restart(0)
            await attached(client, 0)
            call = await client.start("execute.code", {"code": "print(1)"})
            with pytest.raises(RpcError) as unknown:
                await client.call("no.such_method")
            assert unknown.value.code == -32601, "at once, also now"
            assert not call.response.done(), call.response
        finally:
            for worker in bus.workers.values():
                worker.process.send_signal(signal.SIGCONT)
        assert (await call.result())["stdout"] == "1\n"
        await client.__aexit__()
