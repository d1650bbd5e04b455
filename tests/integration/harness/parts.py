"""Broker, gateway and worker started one by one, so that a test can put a proxy between any two and kill each."""

import asyncio
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

from harness.client import Client, RpcError
from harness.fault_proxy import FaultProxy
from harness.system import PATIENCE, SLOWDOWN, binary, check_sanitizers

TOKEN = "test-token-of-the-chaos-suite"
NOT_SERVED = (-32003, -32601)  # no worker at all, or none with this method


class Parts:
    """Keeps the parts alive: one that dies is started again, as `runbus up` does. Proxies: `client` (client to gateway),
    `gateway` (gateway to broker), `events` (the same, for its events), `worker` (worker to broker). `worker`: further arguments of the worker; `echo`: the example
    worker too."""

    def __init__(self, worker=(), echo=False):
        self.worker_arguments = list(worker)
        self.echo = echo

    async def __aenter__(self):
        self.dir = tempfile.mkdtemp(prefix="rb-")
        self.state = os.path.join(self.dir, "state")
        os.mkdir(self.state, 0o700)
        with open(os.path.join(self.dir, "token"), "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(TOKEN)
        self.log = open(os.path.join(self.dir, "log"), "wb")
        self.processes = {}
        self.closing = False
        path = lambda name: os.path.join(self.dir, name)  # noqa: E731
        self.gateway = await FaultProxy(("unix", path("g.sock")), ("unix", path("b.sock"))).__aenter__()
        self.events = await FaultProxy(("unix", path("ge.sock")), ("unix", path("e.sock"))).__aenter__()
        self.worker = await FaultProxy(("unix", path("w.sock")), ("unix", path("b.sock"))).__aenter__()
        self.commands = {
            "broker": [binary("runbus-broker"), "--listen", "ipc://" + path("b.sock"), "--events-listen", "ipc://" + path("e.sock"),
                       "--events-publish", "ipc://" + path("p.sock")],
            "gateway": [binary("runbus-gateway"), "--listen", "127.0.0.1:0", "--broker", "ipc://" + path("g.sock"),
                        "--events", "ipc://" + path("ge.sock"), "--token-file", path("token")],
            "worker": [binary("runbus-worker"), "execution", "--broker", "ipc://" + path("w.sock"), "--node", "here",
                       "--state-dir", self.state, *self.worker_arguments],
        }
        if self.echo:
            self.commands["echo"] = [binary("runbus-example-echo"), "--broker", "ipc://" + path("b.sock"), "--node", "here"]
        self.keepers = []
        await self._start("broker")
        address = (await self._start("gateway")).strip().decode()
        host, port = address.rsplit(":", 1)
        # A gateway that is started again listens where it did.
        self.commands["gateway"][2] = address
        self.client = await FaultProxy(("tcp", "127.0.0.1", 0), ("tcp", host, int(port))).__aenter__()
        await self._start("worker")
        if self.echo:
            await self._start("echo")
        self.url = f"ws://127.0.0.1:{self.client.listen[2]}/ws"
        self.token = TOKEN
        self.ws_url = self.url
        self.keepers = [asyncio.create_task(self._keep(name)) for name in self.commands]
        try:
            await asyncio.wait_for(self._served(), PATIENCE)
        except BaseException as error:
            await self.__aexit__(type(error))
            raise
        return self

    async def _served(self):
        """The gateway hears of a worker's methods a moment after the worker is attached."""
        wanted = [("execute.languages", {})] + [("echo.say", {"text": ""})] * self.echo
        async with Client(self) as client:
            while wanted:
                try:
                    await client.call(*wanted[0])
                    del wanted[0]
                except RpcError as error:
                    if error.code not in NOT_SERVED:
                        raise
                    await asyncio.sleep(0.01)

    async def _start(self, name):
        read, write = os.pipe()
        try:
            self.processes[name] = await asyncio.create_subprocess_exec(
                *self.commands[name], "--ready-fd", str(write), pass_fds=[write], stdin=subprocess.DEVNULL, stdout=self.log,
                stderr=self.log,
            )
        finally:
            os.close(write)
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.run_in_executor(None, os.read, read, 100), PATIENCE)
        finally:
            os.close(read)

    async def _keep(self, name):
        while True:
            await self.processes[name].wait()
            if self.closing:
                return
            await asyncio.sleep(0.1)
            await self._start(name)

    def kill(self, name):
        process = self.processes[name]
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)

    def memory(self):
        """{part: resident bytes}, agents included"""
        pids = {name: process.pid for name, process in self.processes.items()}
        for engine in pathlib.Path(self.state, "sandboxes").glob("*/engine.json"):
            try:
                pids["agent " + engine.parent.name[:8]] = json.loads(engine.read_text())["first"]["pid"]
            except OSError:
                pass
        result = {}
        for name, pid in pids.items():
            try:
                with open(f"/proc/{pid}/status") as status:
                    result[name] = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))
            except (OSError, StopIteration):
                pass
        return result

    async def __aexit__(self, kind, *_):
        self.closing = True
        for keeper in self.keepers:
            keeper.cancel()
        await asyncio.gather(*self.keepers, return_exceptions=True)
        for proxy in (self.client, self.gateway, self.events, self.worker):
            await proxy.__aexit__()
        for name in ("echo", "worker", "gateway", "broker"):
            if name not in self.processes:
                continue
            process = self.processes[name]
            if process.returncode is None:
                process.terminate()
                try:
                    await asyncio.wait_for(process.wait(), 15 * SLOWDOWN)
                except asyncio.TimeoutError:
                    process.kill()
                    await process.wait()
        done = subprocess.run([binary("runbus-worker"), "--destroy-sessions", "--state-dir", self.state], capture_output=True, check=False)
        self.log.close()
        with open(os.path.join(self.dir, "log"), "rb") as file:
            log = (file.read() + done.stderr).decode(errors="replace")
        if kind is not None:
            print(log[-20000:])
        shutil.rmtree(self.dir, ignore_errors=True)
        assert done.returncode == 0, done.stderr
        check_sanitizers(log)
