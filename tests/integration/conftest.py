import asyncio
import inspect
import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from harness.system import BINARY_DIR, SLOWDOWN, System  # noqa: E402

# A test that takes longer than this hangs.
LONGEST_TEST = float(os.environ.get("RUNBUS_SOAK_SECONDS", "60")) + 240 * SLOWDOWN


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


@pytest.fixture(autouse=True)
def sanitizer_reports():
    """In a build with sanitizers: the test during which a program made a report fails with it."""
    folder = BINARY_DIR / "sanitizer-reports"
    before = set(folder.glob("report*"))
    yield
    for path in sorted(set(folder.glob("report*")) - before):
        pytest.fail(f"{path.name}:\n{path.read_text(errors='replace')[:8000]}", pytrace=False)


@pytest.fixture(scope="module")
def system():
    with System() as running:
        yield running
