"""A warm run behaves as the bare interpreter does: stdout, stderr, exit code and signal are equal."""

import asyncio
import pathlib
import re
import resource
import shutil
import signal
import subprocess

import pytest

from differential.programs import JAVASCRIPT, PYTHON
from harness.client import Client, warm_run
from harness.system import PATIENCE

# Those of Python are what the language table gives every Python program: output is seen as it is printed, nothing is left.
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1",
}
# Where a warm start still differs from a cold one, and why. Each is tried too: one that differs no more must go from here.
KNOWN_DIFFERENCES = {
    ("python", "modules"): "the parent of the spares has imported ctypes and socket",
    ("python", "traceback depth"): "below the program's frame are those that started it",
    ("python", "frames"): "below the program's frame are those that started it",
    ("python", "gc"): "what the parent has imported is frozen, so that a fork does not copy it",
}
CASES = [("python", name) for name in PYTHON] + [("javascript", name) for name in JAVASCRIPT]
# What runs have that ask for no variables of their own, but for `HOME`: spares of Python are ready for those.
USUAL = ENVIRONMENT | {"LOGNAME": "runbus", "USER": "runbus", "TMPDIR": "/tmp"}


def plain(text):
    """Without what differs from place to place: directories of source files, pids, addresses."""
    text = re.sub(r"(?:/[\w.+:-]+)*/(?:\.[0-9a-f]+-\d+\.)?((?:main|program)\.\w+)", r"\1", text)
    text = re.sub(r"\.[0-9a-f]+-\d+\.(main\.\w+)", r"\1", text)
    text = re.sub(r"0x[0-9a-f]+", "0x…", text)
    return re.sub(r"\(node:\d+\)", "(node:…)", text)


def bare(language, source, folder, environment):
    name, interpreter = {"python": ("main.py", "python3"), "javascript": ("main.js", "node")}[language]
    path = pathlib.Path(folder, name)
    path.write_bytes(source.encode())
    done = subprocess.run(
        [interpreter, str(path)], executable=shutil.which(interpreter, path=ENVIRONMENT["PATH"]), cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
        timeout=PATIENCE, check=False, start_new_session=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    )
    killed = signal.Signals(-done.returncode).name if done.returncode < 0 else None
    return {
        "stdout": plain(done.stdout.decode(errors="replace")),
        "stderr": plain(done.stderr.decode(errors="replace")),
        "exit_code": None if killed else done.returncode,
        "signal": killed,
    }


@pytest.fixture(scope="module")
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(system, loop):
    made = Client(system)
    loop.run_until_complete(made.__aenter__())
    yield made
    loop.run_until_complete(made.__aexit__())


@pytest.fixture(scope="module")
def home(client, loop):
    params = {"code": "env -0", "language": "bash"}
    lines = loop.run_until_complete(client.call("execute.code", params))["stdout"].split("\0")
    seen = dict(line.split("=", 1) for line in lines if line)
    assert {name for name, _ in USUAL.items() - seen.items()} == {"HOME", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
    return seen["HOME"]


@pytest.mark.parametrize("language,name", CASES, ids=[f"{language}: {name}" for language, name in CASES])
def test_as_the_bare_interpreter(client, loop, tmp_path, language, name):
    compare(client, loop, tmp_path, language, name, ENVIRONMENT, {"environment": ENVIRONMENT})


@pytest.mark.parametrize("name", PYTHON)
def test_as_the_bare_interpreter_where_spares_are_made_for_it(client, loop, tmp_path, home, name):
    compare(client, loop, tmp_path, "python", name, USUAL | {"HOME": home}, {})


def compare(client, loop, folder, language, name, environment, config):
    source = {"python": PYTHON, "javascript": JAVASCRIPT}[language][name]
    expected = bare(language, source, folder, environment)
    params = {"code": source or "\n", "language": language, "config": config | {"timeout": 60}}
    result = loop.run_until_complete(warm_run(client, params))
    seen = {key: plain(result[key]) if key.startswith("std") else result[key] for key in expected}
    if (language, name) in KNOWN_DIFFERENCES:
        assert seen != expected, "no longer different: take it from KNOWN_DIFFERENCES"
    else:
        assert seen == expected
