"""The abuse battery: each attack through the public interface, over each engine that this machine can run."""

import os
import socket
import subprocess
import tempfile
import uuid

import pytest

from abuse.attacks import ALLOWED, ATTACKS, PRELUDE
from harness.client import Client
from harness.system import System, as_user, binary, processes, wait_until

# As whoever runs the tests, and as a user who has nothing.
ENGINES = ["oci", "oci-runc", "oci-runsc", "bubblewrap", "oci-rootless", "bubblewrap-rootless"]
THROW_AWAY_UID = 64321


class Bait:
    """Things of the host that a program must not reach."""

    def __enter__(self):
        self.file = tempfile.NamedTemporaryFile(prefix="runbus-bait-", dir="/var/tmp")
        os.chmod(self.file.name, 0o644)
        self.file.write(b"secret of the host")
        self.file.flush()
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.abstract_name = f"runbus-bait-{uuid.uuid4()}"
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind("\0" + self.abstract_name)
        self.abstract.listen()
        self.environment = {
            "HOST_FILE": self.file.name,
            "HOST_PORT": str(self.tcp.getsockname()[1]),
            "HOST_ABSTRACT": self.abstract_name,
        }
        return self

    def __exit__(self, *_):
        self.file.close()
        self.tcp.close()
        self.abstract.close()


@pytest.fixture(scope="module")
def bait():
    with Bait() as made:
        yield made


@pytest.fixture(scope="module", params=ENGINES)
def confined(request):
    engine, _, variant = request.param.partition("-")
    rootless = variant == "rootless"
    uid = THROW_AWAY_UID if rootless else None
    if rootless and os.geteuid() != 0:
        pytest.skip("SKIPPED: the tests run as an ordinary user already")
    if rootless and subprocess.run(as_user(uid, "test", "-x", binary("runbus")), check=False).returncode != 0:
        pytest.skip(f"SKIPPED: an ordinary user cannot reach {binary('runbus')}")
    try:
        runtime = ["--runtime", variant] if variant and not rootless else []
        system = System("--engine", engine, *runtime, uid=uid).start()
    except AssertionError as error:
        _, found, why = str(error).partition(f"the engine {engine} does not work here:")
        if found:
            pytest.skip(f"SKIPPED: {request.param}: {why.strip().splitlines()[0]}")
        raise
    system.ordinary = rootless or os.geteuid() != 0
    system.runsc = variant == "runsc"
    try:
        yield system
    finally:
        system.stop()


@pytest.fixture(scope="module")
def unconfined():
    with System("--engine", "process", "--insecure") as system:
        yield system


async def attack(system, attack, bait):
    async with Client(system) as client:
        return await client.run(PRELUDE + attack.code, config={"environment": bait.environment, "timeout": 60})


@pytest.mark.parametrize("each", ATTACKS, ids=lambda each: each.name)
async def test_attack_is_held(confined, bait, each):
    if confined.runsc and each.harmless_in_gvisor:
        pytest.skip(f"SKIPPED: gVisor lets this through: {each.harmless_in_gvisor}")
    result = await attack(confined, each, bait)
    # Killed for a forbidden system call is held as well.
    assert result["stdout"].startswith("HELD:") or result["signal"] in ("SIGSYS", "SIGTERM", "SIGKILL"), result
    assert "ESCAPED" not in result["stdout"], result


@pytest.mark.parametrize("each", [each for each in ATTACKS if each.control], ids=lambda each: each.name)
async def test_the_attack_works_without_a_boundary(unconfined, bait, each):
    result = await attack(unconfined, each, bait)
    assert result["stdout"].startswith("ESCAPED:"), result


@pytest.mark.parametrize("name,code", ALLOWED, ids=[name for name, _ in ALLOWED])
async def test_still_works(confined, name, code):
    if confined.runsc and name == "personality":
        pytest.skip("SKIPPED: gVisor has no personality(2)")
    async with Client(confined) as client:
        result = await client.run(PRELUDE + code, config={"timeout": 60})
        assert result["stdout"].strip() == "WORKS", result


async def alive(client):
    """The agent and the session answer."""
    assert (await client.run("print('alive')"))["stdout"] == "alive\n"


async def test_fork_bomb_is_bounded_and_cleaned(confined):
    mark = str(uuid.uuid4().int)[:12]
    code = f"import os, time\nn = 0\nwhile True:\n    try:\n        if os.fork() == 0:\n            os.execvp('sleep', ['sleep', '{mark}'])\n        n += 1\n    except OSError:\n        print(n, flush=True)\n        break\n"
    async with Client(confined) as client:
        result = await client.run(code, config={"timeout": 60})
        # In gVisor so many processes take more memory than a session has.
        assert result["exit_code"] == 0 or (confined.runsc and result["limit"] == "memory"), result
        assert not result["stdout"] or int(result["stdout"]) < 260
        wait_until(lambda: not processes(lambda argv: argv[:2] == ["sleep", mark]), "the bomb is gone")
        await alive(client)


async def test_memory_bomb_ends_alone(confined):
    async with Client(confined) as client:
        enforced = (await client.call("session.open"))["enforced"]
        if enforced["memory"] != "cgroup":
            pytest.skip(f"SKIPPED: memory is bounded by {enforced['memory']} here")
        result = await client.run("x = []\nwhile True: x.append(bytearray(8 << 20))", config={"timeout": 100})
        assert (result["status"], result["signal"], result["limit"]) == ("failed", "SIGKILL", "memory"), result
        await alive(client)


@pytest.mark.parametrize("where", ["/tmp", "/dev/shm"])
async def test_filling_a_tmpfs_is_bounded(confined, where):
    code = f"n = 0\ntry:\n    with open('{where}/fill', 'wb') as f:\n        while n < 1024: f.write(bytes(1 << 20)); f.flush(); n += 1\nexcept OSError as e: pass\nimport os; os.unlink('{where}/fill')\nprint(n)"
    async with Client(confined) as client:
        result = await client.run(code, config={"timeout": 100})
        # ENOSPC ends the loop, or the memory limit the program.
        assert result["limit"] == "memory" or int(result["stdout"]) < 600, result
        await alive(client)


async def test_a_burnt_cpu_leaves_the_agent_answering(confined):
    async with Client(confined) as client:
        call = await client.stream("import os\nfor _ in range(4): os.fork()\nwhile True: pass", config={"timeout": 60})
        await call.until(lambda items: items)
        await alive(client)
        await client.call("execute.cancel", {"execution_id": call.items[0][1]["execution_id"]})
        assert (await call.result())["status"] == "cancelled"


async def test_kill_everything(confined):
    async with Client(confined) as client:
        result = await client.run("import os, time\nos.kill(-1, 9)\nprint('left')\n")
        assert result["exit_code"] == 0 or result["signal"] == "SIGKILL", result
        await alive(client)


async def test_descriptors_are_bounded(confined):
    async with Client(confined) as client:
        result = await client.run("import os\nn = 0\ntry:\n    while n < 2000000: os.dup(1); n += 1\nexcept OSError as e: print(n, e.errno)")
        assert result["stdout"].endswith(" 24\n"), result
        await alive(client)


async def test_a_deep_tree_and_odd_names_are_removed(confined):
    code = (
        "import os\n"
        "for name in (b'new\\nline', b'\\xff\\xfe', b'\\x1b[31m', b'-rf'): open(name, 'w').close()\n"
        "for i in range(30000): os.mkdir('d'); os.chdir('d')\n"
        "print('deep')\n"
    )
    async with Client(confined) as client:
        session = (await client.call("session.open"))["session_id"]
        result = await client.run(code, config={"timeout": 100})
        # A quota that is measured takes a tree that it cannot see the bottom of for one that is too large.
        # gVisor has a descriptor open for each folder on the way, and of those only so many.
        few = confined.runsc and "Too many open files" in result["stderr"]
        assert result["stdout"] == "deep\n" or result["limit"] == "disk" or few, result
        await client.call("session.close", {"session_id": session}, 120)
        sessions = (await client.call("session.list"))["sessions"]
        assert session not in [each["session_id"] for each in sessions]

    def left():
        for folder, names, _ in os.walk(confined.state_dir):
            if "d" in names and folder.endswith("workspace"):
                return True
        return False

    wait_until(lambda: not left(), "the tree is removed")


async def test_the_host_user_is_not_root_and_differs_by_session(confined):
    if confined.ordinary:
        pytest.skip("SKIPPED: an ordinary user has one uid")
    if confined.runsc:
        pytest.skip("SKIPPED: gVisor's programs are no processes of the host")
    uids = set()
    async with Client(confined) as one, Client(confined) as two:
        for client in (one, two):
            mark = str(uuid.uuid4().int)[:12]
            call = await client.stream(f"import os\nos.execvp('sleep', ['sleep', '{mark}'])")
            await call.until(lambda items: items)
            found = wait_until(lambda mark=mark: processes(lambda argv: argv[:2] == ["sleep", mark]), "it runs")
            status = open(f"/proc/{found[0][0]}/status").read()
            uids.add(int(status.split("Uid:")[1].split()[0]))
            await client.call("execute.cancel", {"execution_id": call.items[0][1]["execution_id"]})
    assert len(uids) == 2 and 0 not in uids, uids
