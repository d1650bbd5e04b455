"""Warm runs: programs that are given to interpreters which were started ahead."""

import asyncio
import os
import pathlib
import random
import time

import pytest

from harness.client import Client, warm_run
from harness.system import PATIENCE, SOURCE_DIR, System


@pytest.fixture(scope="module")
def numpy_system(tmp_path_factory):
    """A system whose operator has numpy loaded ahead, and a module that is not there."""
    table = pathlib.Path(SOURCE_DIR, "tools/languages/languages.toml").read_text()
    row = 'warm_run = ["python3"]\n'
    assert row in table
    path = tmp_path_factory.mktemp("languages") / "languages.toml"
    path.write_text(table.replace(row, row + 'preload = ["no_such_module_here", "numpy"]\n'))
    with System("--languages", str(path)) as running:
        yield running


async def test_numpy_is_loaded_ahead_and_each_run_has_its_own_random_numbers(numpy_system):
    code = "import sys\nprint('numpy' in sys.modules)\nimport numpy\nprint(numpy.random.rand(), numpy.arange(4).sum())"
    numbers = set()
    async with Client(numpy_system) as client:
        for _ in range(3):
            result = await warm_run(client, {"code": code})
            loaded, number, total = result["stdout"].split()
            assert (loaded, total) == ("True", "6"), result
            numbers.add(number)
    assert len(numbers) == 3


async def test_without_a_list_nothing_is_loaded_ahead(system):
    async with Client(system) as client:
        result = await warm_run(client, {"code": "import sys; print('numpy' in sys.modules)"})
        assert result["stdout"] == "False\n"


async def test_javascript_runs_warm_with_input_files_and_arguments(system):
    async with Client(system) as client:
        params = {
            "language": "javascript",
            "files": [{"path": "lib/add.js", "text": "module.exports = (a, b) => a + b"}, {"path": "lib/main.mjs", "text": "import add from './add.js'; import fs from 'fs';\nconsole.log(add(40, 2), process.argv[2], fs.readFileSync(0, 'utf8'), process.env.COLOR)"}],
            "entry": "lib/main.mjs",
            "args": ["--x"],
            "stdin": "typed",
            "config": {"environment": {"COLOR": "blue"}},
        }
        assert (await warm_run(client, params))["stdout"] == "42 --x typed blue\n"


async def test_a_program_that_stops_the_spare_and_its_helper_costs_nobody_a_timeout(system):
    async with Client(system) as client:
        stop = "import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\nprint('stopped')"
        result = await warm_run(client, {"code": stop, "config": {"timeout": 600}})
        assert (result["status"], result["stdout"]) == ("completed", "stopped\n")
        stop_all = "import os, signal\nos.kill(-1, signal.SIGSTOP)"
        await client.call("execute.code", {"code": stop_all, "config": {"timeout": 2}})
        assert (await warm_run(client, {"code": "print(1)"}))["stdout"] == "1\n"


KILL_PARENT = """
import os, signal
for pid in filter(str.isdigit, os.listdir('/proc')):
    try:
        if b'/proc/self/fd/4' in open(f'/proc/{pid}/cmdline', 'rb').read() and int(pid) not in (os.getpid(), os.getppid()):
            os.kill(int(pid), signal.SIGNAL)
    except OSError:
        pass
print('done', flush=True)
"""
# It stops spares, and programs that run at the time too, which then wait for their timeouts: so it runs alone.
STOP_OTHERS = KILL_PARENT.replace("SIGNAL", "SIGSTOP")
# What programs do to themselves and to the spares of their session, and the exit codes or signals that may come of it: what
# kills a spare in which another run is just starting is that run's end too.
PROGRAMS = {
    "print('done')": {0},
    "import os; print('done', flush=True); os._exit(3)": {3},
    "import os; print('done', flush=True); os.kill(os.getpid(), 9)": {"SIGKILL"},
    "import os; print('done', flush=True); os.kill(os.getppid(), 19)": {0},
    "import os; print('done', flush=True); os.kill(os.getppid(), 9); os.kill(os.getpid(), 9)": {"SIGKILL"},
    KILL_PARENT.replace("SIGNAL", "SIGKILL"): {0},
    STOP_OTHERS: {0},
}
RUNNERS = 4
RUNS = int(os.environ.get("RUNBUS_WARM_RUNS", "60"))


async def test_every_run_ends_whatever_others_do_to_the_spares(system):
    seed = int(os.environ.get("RUNBUS_WARM_SEED", time.time_ns() % 1_000_000))
    print(f"RUNBUS_WARM_SEED={seed}")
    choose = random.Random(seed)
    todo = [choose.choices(list(PROGRAMS), [30, 6, 2, 2, 1, 1, 1])[0] for _ in range(RUNS)]
    longest = warm = 0
    places, all_places = asyncio.Semaphore(RUNNERS), asyncio.Lock()

    async with Client(system) as client:

        async def run(code):
            nonlocal longest, warm
            started = time.monotonic()
            result = await client.call("execute.code", {"code": code, "config": {"timeout": 300}})
            longest = max(longest, time.monotonic() - started)
            warm += result["usage"]["warm"]
            assert not result.get("limit"), result
            outcome = result["exit_code"] if result["signal"] is None else result["signal"]
            assert outcome in PROGRAMS[code] | {"SIGKILL"}, (code, result)
            assert outcome == "SIGKILL" or result["stdout"] == "done\n", (code, result)

        async def runner():
            while todo:
                code = todo.pop()
                async with all_places:
                    count = RUNNERS if code == STOP_OTHERS else 1
                    for _ in range(count):
                        await places.acquire()
                try:
                    await run(code)
                finally:
                    for _ in range(count):
                        places.release()

        await asyncio.gather(*(runner() for _ in range(RUNNERS)))
        assert (await warm_run(client, {"code": "print(1)"}))["stdout"] == "1\n"
    print(f"{RUNS} runs, {warm} warm, the longest took {longest:.2f} s")
    assert longest < PATIENCE
