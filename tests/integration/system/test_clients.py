"""Clients that other people wrote drive the running system."""

import json
import os
import pathlib
import subprocess

from harness.system import PATIENCE, SOURCE_DIR

CLIENTS = SOURCE_DIR / "tests" / "integration" / "clients"


def drive(script, system):
    done = subprocess.run(
        ["node", str(CLIENTS / script)],
        env={**os.environ, "RUNBUS_URL": system.ws_url, "RUNBUS_TOKEN": system.token},
        capture_output=True, text=True, timeout=2 * PATIENCE, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_rpc_websockets(system):
    assert pathlib.Path(CLIENTS, "node_modules").exists(), "run `npm ci` in tests/integration/clients"
    seen = drive("rpc_websockets.mjs", system)
    assert seen["stdout"] == "42\n"
    assert seen["items"][0] == "execute.started" and "execute.output" in seen["items"]
    assert seen["error"] == -32601


def test_json_rpc_2_0(system):
    seen = drive("json_rpc_2_0.mjs", system)
    assert seen["stdout"] == "42\n" and seen["error"] == -32602
    assert seen["batch"] == 3
