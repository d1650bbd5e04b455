"""The quota of a workspace: filled by size and by number, over each way to bound it that this machine has."""

import pytest

from harness.client import Client, RpcError
from harness.system import System

DISK = 24 << 20
# Files of a workspace of this size.
FILES = DISK // 16384

# A quota that is measured finds what was written a moment later.
FILL = """
import time
try:
    {attack}
finally:
    time.sleep({hold})
"""
ATTACKS = {
    "one large file": "f = open('fill', 'wb')\n    for _ in range(%d): f.write(bytes(1 << 20)); f.flush()" % (DISK >> 19),
    "large files": "for i in range(16):\n        with open(f'fill{i}', 'wb') as f: f.write(bytes(%d))" % (DISK // 4),
    "many files": "for i in range(%d): open(f'fill{i}', 'wb').close()" % (FILES * 4),
    "many folders": "import os\n    for i in range(%d): os.mkdir(f'fill{i}')" % (FILES * 4),
}
CLEAR = "import os\nfor name in os.listdir('.'):\n    if name.startswith('fill'): os.rmdir(name) if os.path.isdir(name) else os.unlink(name)"


@pytest.fixture(scope="module", params=["oci-loop", "bubblewrap-soft"])
def bounded(request):
    engine, quota = request.param.split("-")
    try:
        system = System("--engine", engine, "--workspace-quota", quota, "--disk", str(DISK)).start()
    except AssertionError as error:
        if "does not work here" in str(error):
            pytest.skip(f"SKIPPED: {error}")
        raise
    system.quota = quota
    try:
        yield system
    finally:
        system.stop()


@pytest.mark.parametrize("name", ATTACKS)
async def test_filling_the_workspace_is_ended_and_named(bounded, name):
    async with Client(bounded) as client:
        session = name.replace(" ", "-")
        opened = await client.call("session.open", {"session_id": session})
        assert opened["enforced"]["disk"] == ("hard" if bounded.quota == "loop" else "soft")
        result = await client.run(FILL.format(attack=ATTACKS[name], hold=100 if bounded.quota == "soft" else 0), session_id=session, config={"timeout": 120})
        assert (result["status"], result["limit"]) == ("failed", "disk"), result
        if bounded.quota == "soft":
            with pytest.raises(RpcError) as refused:
                await client.run("print(1)", session_id=session)
            assert (refused.value.code, refused.value.data["limit"]) == (-32009, "disk")
        else:
            # What is full can be emptied, and then there is room again.
            cleared = await client.run(CLEAR, session_id=session, config={"timeout": 120})
            assert cleared["exit_code"] == 0, cleared
            again = await client.run(f"open('fill', 'wb').write(bytes({DISK // 2}))", session_id=session)
            assert (again["exit_code"], again["limit"]) == (0, None), again
        # Nobody else is in the way of it.
        assert (await client.run("print(1)"))["stdout"] == "1\n"
        await client.call("session.close", {"session_id": session})


async def test_what_fits_is_not_in_the_way(bounded):
    code = f"import os, time\nopen('large', 'wb').write(bytes({DISK // 2}))\nfor i in range({FILES // 4}): open(f'small{{i}}', 'wb').close()\ntime.sleep(3)\nprint(os.path.getsize('large'))"
    async with Client(bounded) as client:
        result = await client.run(code, session_id="fits", config={"timeout": 120})
        assert (result["status"], result["limit"], result["stdout"]) == ("completed", None, f"{DISK // 2}\n"), result
        # Files of the last run are there for the next one, also those that were executed.
        assert (await client.run("import os; print(len(os.listdir('.')))", session_id="fits"))["exit_code"] == 0
        await client.call("session.close", {"session_id": "fits"})


async def test_without_a_quota_the_attack_works():
    with System("--workspace-quota", "none", "--disk", str(DISK)) as system:
        async with Client(system) as client:
            assert (await client.call("session.open"))["enforced"]["disk"] == "none"
            code = f"for i in range(3):\n    with open(f'fill{{i}}', 'wb') as f: f.write(bytes({DISK // 2}))\nimport time; time.sleep(3)"
            result = await client.run(code, config={"timeout": 120})
            assert (result["status"], result["limit"]) == ("completed", None), result
