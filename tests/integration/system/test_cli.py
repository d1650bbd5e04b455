"""`runbus exec` behaves like running the program locally; the other commands answer."""

import json
import os
import signal
import subprocess
import uuid

from harness.system import PATIENCE, binary, processes, wait_until


def environment(system):
    return {**os.environ, "RUNBUS_URL": system.url, "RUNBUS_TOKEN": system.token}


def runbus(system, *arguments, **options):
    return subprocess.run(
        [binary("runbus"), *arguments], env=environment(system), capture_output=True, timeout=PATIENCE, check=False, **options
    )


def test_streams_and_exit_code(system):
    done = runbus(system, "exec", "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)


def test_stdin_to_eof(system):
    data = os.urandom(3_000_000)
    done = runbus(system, "exec", "-l", "bash", "-c", "cat", input=data)
    assert done.returncode == 0 and done.stdout == data


def test_file_and_arguments(system, tmp_path):
    program = tmp_path / "hello.js"
    program.write_text("console.log(process.argv.slice(2).join('+'))")
    done = runbus(system, "exec", str(program), "--", "a", "b c")
    assert (done.stdout, done.returncode) == (b"a+b c\n", 0), done.stderr


def test_killed_by_a_signal(system):
    done = runbus(system, "exec", "-l", "bash", "-c", "kill -TERM $$")
    assert done.returncode == 128 + signal.SIGTERM


def test_ctrl_c_interrupts_the_program(system):
    mark = str(uuid.uuid4().int)[:12]
    process = subprocess.Popen(
        [binary("runbus"), "exec", "-l", "bash", "-c", f"echo up; exec sleep {mark}"],
        env=environment(system), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"up\n"

    def inside():
        return processes(lambda argv: argv[0] == "sleep" and mark in argv)

    wait_until(inside, "the program runs")
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 128 + signal.SIGINT
    process.stdout.close()
    wait_until(lambda: not inside(), "the program is gone")


def test_call_workers_and_errors(system):
    done = runbus(system, "call", "connection.ping", "{}")
    assert json.loads(done.stdout)["pong"] is True
    done = runbus(system, "workers", "--json")
    assert "execution" in done.stdout.decode()
    done = runbus(system, "call", "no.such", "{}")
    assert done.returncode != 0 and b"no.such" in done.stderr
    assert json.loads(done.stdout)["error"]["code"] == -32601
    done = runbus(system, "exec", "-l", "klingon", "-c", "x")
    assert done.returncode != 0 and b"klingon" in done.stderr


def test_attach_prints_what_was_printed(system):
    done = runbus(system, "call", "execute.code_streaming", json.dumps({"code": "print('kept')"}))
    result = json.loads(done.stdout.strip().splitlines()[-1])
    done = runbus(system, "attach", result["execution_id"], "--session", result["session_id"])
    assert (done.stdout, done.returncode) == (b"kept\n", 0), done.stderr


def test_subscribe(system):
    process = subprocess.Popen(
        [binary("runbus"), "subscribe", "user.*", "--json"], env=environment(system), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        line = None
        # The subscription stands when its first event arrives.
        import select

        def publish_and_look():
            runbus(system, "call", "events.publish", '{"topic": "user.x", "data": {"n": 1}}')
            return select.select([process.stdout], [], [], 1)[0]

        wait_until(publish_and_look, "an event arrives")
        line = process.stdout.readline()
        assert b"user.x" in line
    finally:
        process.terminate()
        process.communicate()


def test_doctor_says_what_is_enforced(system):
    done = runbus(system, "doctor")
    text = done.stdout.decode()
    assert done.returncode == 0, text
    for resource in ("memory", "pids", "cpu", "network"):
        assert resource in text
