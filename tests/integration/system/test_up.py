"""`runbus up`: one command starts it all, and ends without a trace."""

import json
import os
import signal
import stat
import subprocess
import tempfile
import urllib.error
import urllib.request

from harness.client import Client
from harness.system import PATIENCE, System, binary, processes, wait_until


def ours(state_dir):
    return processes(lambda argv: any(state_dir in part for part in argv))


def get(url, **headers):
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.status, answer.read(), answer.headers


def agents():
    return {pid for pid, _ in processes(lambda argv: argv[0].endswith("runbus-agent"))}


async def test_ctrl_c_leaves_nothing_behind():
    others = agents()
    with tempfile.TemporaryDirectory(prefix="runbus-test-") as state_dir:
        system = System(state_dir=state_dir).start()
        async with Client(system) as client:
            await client.run("print(1)")
            call = await client.stream("import time\nprint('up', flush=True)\ntime.sleep(600)")
            await call.until(lambda items: b"up" in call.bytes())
            assert agents() - others
            assert stat.S_IMODE(os.stat(os.path.join(state_dir, "token")).st_mode) == 0o600
            assert not any(system.token in part for _, argv in processes(lambda argv: True) for part in argv)
            system.process.send_signal(signal.SIGINT)
            assert system.process.wait(PATIENCE) == 0, system.log_text()
        assert not ours(state_dir)
        wait_until(lambda: not agents() - others, "the sandboxes are gone")
        mounts = open("/proc/self/mounts").read()
        assert state_dir not in mounts


async def test_kill_9_of_everything_and_a_new_up_leaves_nothing():
    others = agents()
    with tempfile.TemporaryDirectory(prefix="runbus-test-") as state_dir:
        system = System(state_dir=state_dir).start()
        async with Client(system) as client:
            call = await client.stream("import time\nprint('up', flush=True)\ntime.sleep(600)")
            await call.until(lambda items: b"up" in call.bytes())
        old = agents() - others
        assert old
        system.process.kill()
        system.process.wait()
        wait_until(lambda: not ours(state_dir), "the parts end with `up`")
        with System(state_dir=state_dir) as again:
            assert not agents() & old, "the old sandbox is gone"
            async with Client(again) as client:
                assert (await client.run("print(1)"))["stdout"] == "1\n"


def test_check_runs_a_program_and_ends():
    with tempfile.TemporaryDirectory(prefix="runbus-test-") as state_dir:
        done = subprocess.run(
            [binary("runbus"), "up", "--check", "--listen", "127.0.0.1:0", "--state-dir", state_dir],
            capture_output=True, timeout=2 * PATIENCE, text=True, check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "http://127.0.0.1:" in done.stdout + done.stderr
        assert not ours(state_dir)


def test_a_second_up_on_the_same_state_is_refused(system):
    done = subprocess.run(
        [binary("runbus"), "up", "--listen", "127.0.0.1:0", "--state-dir", system.state_dir],
        capture_output=True, timeout=PATIENCE, text=True, check=False,
    )
    assert done.returncode != 0 and system.state_dir in done.stderr


def test_http(system):
    status, body, _ = get(system.url + "/health")
    health = json.loads(body)
    assert status == 200 and health["status"] == "ok" and health["workers"] >= 1 and health["version"]
    assert get(system.url + "/ready")[0] == 200
    assert json.loads(get(system.url + "/", Accept="application/json")[1])["version"]
    request = urllib.request.Request(
        system.url + "/rpc",
        data=json.dumps({"jsonrpc": "2.0", "id": 1, "method": "execute.code", "params": {"code": "print(3)"}}).encode(),
        headers={"Authorization": f"Bearer {system.token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        assert json.load(answer)["result"]["stdout"] == "3\n"
    request.remove_header("Authorization")
    try:
        urllib.request.urlopen(request, timeout=PATIENCE)
        raise AssertionError("a call without a token was answered")
    except urllib.error.HTTPError as error:
        assert error.code == 401


def test_server_sent_events(system):
    request = urllib.request.Request(
        system.url + "/rpc",
        data=json.dumps(
            {"jsonrpc": "2.0", "id": 1, "method": "execute.code_streaming", "params": {"code": "print('sse')"}}
        ).encode(),
        headers={"Authorization": f"Bearer {system.token}", "Content-Type": "application/json", "Accept": "text/event-stream"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        text = answer.read().decode()
    assert "event: execute.started" in text and "event: execute.output" in text
    last = [line for line in text.splitlines() if line.startswith("data: ")][-1]
    assert json.loads(last[6:])["result"]["exit_code"] == 0


def test_discover(system):
    request = urllib.request.Request(
        system.url + "/rpc",
        data=json.dumps({"jsonrpc": "2.0", "id": 1, "method": "rpc.discover"}).encode(),
        headers={"Authorization": f"Bearer {system.token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        document = json.load(answer)["result"]
    methods = {method["name"]: method for method in document["methods"]}
    assert {"execute.code", "execute.code_streaming", "session.open", "bus.workers", "events.subscribe"} <= set(methods)
    assert "session.release" not in methods and "bus.history" not in methods
    assert "Runs a program to its end" in json.dumps(methods["execute.code"])
