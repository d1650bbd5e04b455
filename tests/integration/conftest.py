import asyncio
import inspect
import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from harness.system import System  # noqa: E402

# A test that takes longer than this hangs.
LONGEST_TEST = float(os.environ.get("RUNBUS_SOAK_SECONDS", "60")) + 240


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Runs a test that is a coroutine function in a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    async def bounded():
        await asyncio.wait_for(pyfuncitem.obj(**arguments), LONGEST_TEST)

    asyncio.run(bounded())
    return True


@pytest.fixture(scope="module")
def system():
    with System() as running:
        yield running
