"""Sessions in gVisor (`--runtime runsc`): what differs from the other engines, as seen through the public interface."""

import os
import pathlib
import signal
import uuid

import pytest

from harness.client import Client
from harness.system import System, processes, wait_until

PROCESSES = """
import os
for pid in filter(str.isdigit, os.listdir('/proc')):
    try: print(open(f'/proc/{pid}/cmdline').read().replace('\\0', ' '))
    except OSError: pass
"""


def runsc_system(*arguments, **options):
    try:
        return System("--engine", "oci", "--runtime", "runsc", *arguments, **options).start()
    except AssertionError as error:
        _, found, why = str(error).partition("the engine oci does not work here:")
        if found:
            pytest.skip(f"SKIPPED: runsc: {why.strip().splitlines()[0]}")
        raise


@pytest.fixture(scope="module")
def system():
    started = runsc_system()
    try:
        yield started
    finally:
        started.stop()


async def seen_inside(client, mark, **params):
    return mark in (await client.run(PROCESSES, **params))["stdout"]


async def test_says_what_is_enforced(system):
    async with Client(system) as client:
        opened = await client.call("session.open")
        assert opened["engine"] == "oci"
        assert opened["enforced"]["pids"] == "cgroup" and opened["enforced"]["network"] == "namespace"
        # Another kernel than the host's.
        result = await client.run("print(open('/proc/version').read())")
        assert result["stdout"].strip() != pathlib.Path("/proc/version").read_text().strip()


@pytest.mark.parametrize("how", ["ended", "cancelled", "timeout", "helper killed"])
async def test_nothing_of_a_run_is_left(system, how):
    mark = str(uuid.uuid4().int)[:12]
    daemon = f"import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.execvp('sleep', ['sleep', '{mark}'])\n    os._exit(0)\nos.wait()\nprint('left it', flush=True)\n"
    async with Client(system) as client:
        call = await client.stream(
            daemon + {"ended": "", "helper killed": "import time\nos.kill(os.getppid(), 9)\ntime.sleep(1000)\n"}.get(how, "import time\ntime.sleep(1000)\n"), config={"timeout": 3 if how == "timeout" else 60}
        )
        await call.until(lambda items: any(method == "execute.output" for method, _ in items))
        if how == "cancelled":
            assert await seen_inside(client, mark)
            await client.call("execute.cancel", {"execution_id": call.items[0][1]["execution_id"]})
        result = await call.result()
        assert result["status"] == {"ended": "completed", "cancelled": "cancelled", "timeout": "timeout", "helper killed": "failed"}[how]
        # It is killed a moment after the run's end.
        for _ in range(50):
            if not await seen_inside(client, mark):
                return
        raise AssertionError("what the run left is there")


async def test_the_end_of_a_run_leaves_what_another_one_has(system):
    mark = str(uuid.uuid4().int)[:12]
    # Two orphans, which the kernel gives to the agent: one stays in the program's session, one has its own.
    orphan = "if os.fork() == 0:\n    {} os.fork() == 0 and os.execvp('sleep', ['sleep', '{}'])\n    os._exit(0)\nos.wait()\n"
    code = "import os\n" + orphan.format("pass;", mark + "1") + orphan.format("os.setsid();", mark + "2") + "print('up', flush=True)\ninput()\n"
    async with Client(system) as client:
        call = await client.stream(code, config={"timeout": 60})
        await call.until(lambda items: any(method == "execute.output" for method, _ in items))
        for _ in range(3):
            assert (await client.run("print(1)"))["stdout"] == "1\n"
        assert await seen_inside(client, mark + "1") and await seen_inside(client, mark + "2")
        execution = call.items[0][1]["execution_id"]
        await client.call("execute.input", {"execution_id": execution, "text": "\n", "eof": True})
        assert (await call.result())["status"] == "completed"


async def test_running_out_of_memory_is_told_and_the_session_goes_on(system):
    async with Client(system) as client:
        opened = await client.call("session.open")
        if opened["enforced"]["memory"] != "cgroup":
            pytest.skip(f"SKIPPED: memory is bounded by {opened['enforced']['memory']} here")
        await client.run("open('kept', 'w').write('x')")
        call = await client.stream("print('begun', flush=True)\nx = []\nwhile True: x.append(bytearray(8 << 20))")
        result = await call.result()
        assert (result["status"], result["signal"], result["limit"]) == ("failed", "SIGKILL", "memory"), result
        assert call.bytes("stdout") == b"begun\n"
        # Whoever attaches later hears the same, and the session has a sandbox again.
        again = await client.call("execute.attach", {"execution_id": result["execution_id"], "session_id": opened["session_id"]})
        assert (again["signal"], again["limit"]) == ("SIGKILL", "memory")
        assert (await client.run("print(2)"))["stdout"] == "2\n"


async def test_a_killed_worker_finds_the_session_and_its_run_again(system):
    async with Client(system) as client:
        session = (await client.call("session.open"))["session_id"]
        await client.run("open('kept', 'w').write('x')")
        call = await client.stream("import time\nfor i in range(40):\n    print(i, flush=True)\n    time.sleep(0.1)\n")
        await call.until(lambda items: any(method == "execute.output" for method, _ in items))
        system.kill("runbus-worker")
        result = await call.result()
        assert result["exit_code"] == 0
        assert call.bytes("stdout") == "".join(f"{i}\n" for i in range(40)).encode()
        assert (await client.run("print(open('kept').read())", session_id=session))["stdout"] == "x\n"


async def test_nothing_is_left_after_kill_of_everything():
    first = runsc_system()
    state = first.state_dir

    def of_runsc(argv):
        return argv and os.path.basename(argv[0]).startswith("runsc") and any(state in word for word in argv)

    def left():
        cgroups = [folder for folder, names, _ in os.walk("/sys/fs/cgroup") for name in names if "runbus" in folder and name in keys]
        mounts = [line for line in pathlib.Path("/proc/self/mounts").read_text().splitlines() if state in line]
        return processes(of_runsc) + cgroups + mounts

    async with Client(first) as client:
        assert (await client.run("print(1)"))["stdout"] == "1\n"
    assert processes(of_runsc)
    keys = [name for place in ("sandboxes", "pool") for name in os.listdir(os.path.join(state, "node", place))]
    for pid in [first.process.pid, *[pid for name in ("runbus-worker", "runbus-gateway", "runbus-broker") for pid in first.pids(name)]]:
        os.kill(pid, signal.SIGKILL)
    first.process.wait()
    first.process.stdout.close()
    second = runsc_system(state_dir=state)
    second.stop()
    wait_until(lambda: not left(), lambda: f"nothing is left: {left()}")
    first.process = None


async def test_an_ordinary_user_is_told_why_not():
    if os.geteuid() != 0:
        pytest.skip("SKIPPED: the tests run as an ordinary user already")
    system = System("--engine", "oci", "--runtime", "runsc", uid=64321)
    with pytest.raises(AssertionError, match="as root alone"):
        system.start()


async def test_a_missing_file_of_the_runtime_is_named():
    with pytest.raises(AssertionError, match="no-such-place/runsc is not installed"):
        System("--engine", "oci", "--runtime", "/no-such-place/runsc").start()
