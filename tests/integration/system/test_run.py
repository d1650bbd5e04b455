"""Programs through the public WebSocket: output as it comes, input, ends."""

import asyncio
import hashlib
import uuid

import pytest

from harness.client import Client, RpcError
from harness.system import processes, wait_until


async def test_collected_run(system):
    async with Client(system) as client:
        result = await client.run("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
        assert (result["status"], result["exit_code"], result["signal"]) == ("failed", 3, None)
        assert (result["stdout"], result["stderr"]) == ("out\n", "err\n")
        assert result["limit"] is None and result["truncated"] is False
        assert result["execution_time"] > 0 and result["usage"]["cpu_time"] > 0


@pytest.mark.parametrize(
    "language,code",
    [
        ("python", "print(6 * 7)"),
        ("javascript", "console.log(6 * 7)"),
        ("bash", "echo $((6 * 7))"),
        ("py", "print(42)"),
    ],
)
async def test_languages(system, language, code):
    async with Client(system) as client:
        result = await client.run(code, language)
        assert (result["stdout"], result["status"]) == ("42\n", "completed"), result


async def test_every_offered_language_runs(system):
    programs = {
        "python": "print(42)", "javascript": "console.log(42)", "bash": "echo 42",
        "typescript": "const x: number = 42; console.log(x)",
        "c": '#include <stdio.h>\nint main(void) { printf("42\\n"); return 0; }',
        "cpp": '#include <iostream>\nint main() { std::cout << 42 << "\\n"; }',
        "go": 'package main\nimport "fmt"\nfunc main() { fmt.Println(42) }',
        "rust": 'fn main() { println!("42"); }',
        "java": 'public class Main { public static void main(String[] a) { System.out.println(42); } }',
        "ruby": "puts 42", "php": "<?php echo 42, \"\\n\";", "perl": 'print "42\\n";', "lua": "print(42)",
        "r": "cat(42, fill=TRUE)", "awk": "BEGIN { print 42 }", "sql": "select 42;",
    }
    async with Client(system) as client:
        offered = (await client.call("execute.languages"))["languages"]
        names = {language["name"] for language in offered}
        assert {"python", "javascript", "bash"} <= names
        assert names <= set(programs), f"this test has no program for {names - set(programs)}"
        assert all(language["version"] for language in offered)
        for name in sorted(names):
            result = await client.run(programs[name], name, config={"timeout": 120})
            assert result["stdout"].strip() == "42" and result["exit_code"] == 0, (name, result)


async def test_compiler_errors_are_the_programs_output(system):
    async with Client(system) as client:
        names = {language["name"] for language in (await client.call("execute.languages"))["languages"]}
        if "c" not in names:
            pytest.skip("no C compiler in the sandbox")
        result = await client.run("int main(void) { return nothing; }", "c", config={"timeout": 120})
        assert result["status"] == "failed" and result["exit_code"] == 1
        assert "nothing" in result["stderr"]


async def test_bytes_arrive_while_the_program_runs(system):
    async with Client(system) as client:
        call = await client.stream("print('first', flush=True)\ninput()\nprint('last')")
        await call.until(lambda items: call.bytes() == b"first\n")
        assert not call.response.done()
        started = call.items[0]
        assert started[0] == "execute.started" and started[1]["language"] == "python"
        taken = await client.call(
            "execute.input", {"execution_id": started[1]["execution_id"], "text": "go\n", "eof": True}
        )
        assert taken["accepted"] == 3
        result = await call.result()
        assert call.bytes() == b"first\nlast\n"
        assert (result["status"], result["exit_code"], result["bytes"]) == ("completed", 0, 11)


async def test_stdin_is_interactive_until_eof(system):
    code = "import sys\nfor line in sys.stdin:\n    print(line.strip()[::-1], flush=True)\nprint('eof')"
    async with Client(system) as client:
        call = await client.stream(code)
        await call.until(lambda items: items)
        execution = call.items[0][1]["execution_id"]
        for word, expected in ((b"abc", b"cba\n"), (b"xyz", b"cba\nzyx\n")):
            await client.call("execute.input", {"execution_id": execution, "text": word.decode() + "\n"})
            await call.until(lambda items, expected=expected: call.bytes() == expected)
        await client.call("execute.input", {"execution_id": execution, "eof": True})
        assert (await call.result())["exit_code"] == 0
        assert call.bytes() == b"cba\nzyx\neof\n"


async def test_both_streams_keep_their_order_and_offsets(system):
    code = (
        "import os\n"
        "for i in range(2000):\n"
        "    os.write(1 + i % 2, b'%d\\n' % i)\n"
    )
    async with Client(system) as client:
        call = await client.stream(code)
        result = await call.result()
        for stream, first in (("stdout", 0), ("stderr", 1)):
            assert call.bytes(stream) == b"".join(b"%d\n" % i for i in range(first, 2000, 2))
        position = 0
        from harness.client import content

        for method, params in call.items:
            if method == "execute.output":
                assert params["offset"] == position
                position += len(content(params))
        assert position == result["bytes"]


async def test_fifty_megabytes_arrive_complete(system):
    code = (
        "import sys, hashlib\n"
        "digest = hashlib.sha256()\n"
        "for i in range(800):\n"
        "    block = (b'%08d' % i) * 8192\n"
        "    digest.update(block)\n"
        "    sys.stdout.buffer.write(block)\n"
        "sys.stdout.flush()\n"
        "print(digest.hexdigest(), file=sys.stderr)\n"
    )
    async with Client(system) as client:
        call = await client.stream(code, config={"timeout": 200})
        result = await call.result(200)
        out = call.bytes("stdout")
        assert len(out) == 800 * 65536 and result["exit_code"] == 0
        assert hashlib.sha256(out).hexdigest() == call.bytes("stderr").decode().strip()
        assert not [item for item in call.items if item[0] == "execute.gap"]


async def test_emoji_and_binary_are_intact(system):
    text = "héllo 🎉 wörld\n" * 5000
    async with Client(system) as client:
        call = await client.stream(f"import sys\nsys.stdout.buffer.write({text!r}.encode())")
        await call.result()
        outputs = [params for method, params in call.items if method == "execute.output"]
        assert all("text" in params for params in outputs), "a character was split"
        assert "".join(params["text"] for params in outputs) == text
        call = await client.stream("import sys\nsys.stdout.buffer.write(bytes(range(256)) * 10)")
        await call.result()
        assert call.bytes() == bytes(range(256)) * 10


async def test_binary_input(system):
    import base64

    data = bytes(range(256)) * 100
    async with Client(system) as client:
        call = await client.stream("import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())")
        await call.until(lambda items: items)
        execution = call.items[0][1]["execution_id"]
        await client.call(
            "execute.input", {"execution_id": execution, "data": base64.b64encode(data).decode(), "eof": True}
        )
        await call.result()
        assert call.bytes() == data


def sleepers(mark):
    return processes(lambda argv: any(mark in part for part in argv))


@pytest.mark.parametrize("how", ["execute.cancel", "$/cancelRequest", "timeout"])
async def test_an_ended_run_leaves_no_process(system, how):
    mark = str(uuid.uuid4().int)[:12]
    code = (
        "import os, signal, subprocess, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"subprocess.Popen(['sleep', '{mark}'])\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"        os.execvp('sleep', ['sleep', '{mark}'])\n"
        "    os._exit(0)\n"
        "print('up', flush=True)\n"
        "time.sleep(600)\n"
    )
    async with Client(system) as client:
        call = await client.stream(code, config={"timeout": 4 if how == "timeout" else 100})
        await call.until(lambda items: b"up" in call.bytes())
        assert len(wait_until(lambda: len(sleepers(mark)) >= 2 and sleepers(mark), "both sleep")) == 2
        execution = call.items[0][1]["execution_id"]
        if how == "execute.cancel":
            assert await client.call("execute.cancel", {"execution_id": execution}) == {}
            result = await call.result()
            assert (result["status"], result["exit_code"]) == ("cancelled", None)
        elif how == "timeout":
            result = await call.result()
            assert (result["status"], result["exit_code"], result["limit"]) == ("timeout", None, "time")
        else:
            await client.notify("$/cancelRequest", {"id": call.id})
            with pytest.raises(RpcError) as error:
                await call.result()
            assert error.value.code == -32011
        wait_until(lambda: not sleepers(mark), "the run's processes are gone")


async def test_what_a_run_leaves_behind_is_killed(system):
    mark = str(uuid.uuid4().int)[:12]
    async with Client(system) as client:
        result = await client.run(f"setsid -f sleep {mark} > /dev/null 2>&1; setsid -f sleep {mark}; echo done", "bash")
        assert (result["stdout"], result["exit_code"]) == ("done\n", 0)
        wait_until(lambda: not sleepers(mark), "the daemons are gone")


async def test_signal_and_exit_by_signal(system):
    code = "import signal, time\nsignal.signal(signal.SIGUSR1, lambda *_: print('usr1', flush=True))\nprint('up', flush=True)\nwhile True: time.sleep(1)"
    async with Client(system) as client:
        call = await client.stream(code)
        await call.until(lambda items: b"up" in call.bytes())
        execution = call.items[0][1]["execution_id"]
        await client.call("execute.signal", {"execution_id": execution, "signal": "SIGUSR1"})
        await call.until(lambda items: b"usr1" in call.bytes())
        await client.call("execute.signal", {"execution_id": execution, "signal": "TERM"})
        result = await call.result()
        assert (result["status"], result["exit_code"], result["signal"]) == ("failed", None, "SIGTERM")


async def test_sixty_four_runs_at_once(system):
    async with Client(system) as client:
        calls = [await client.stream(f"print({i}); input()", config={"timeout": 200}) for i in range(64)]
        for i, call in enumerate(calls):
            await call.until(lambda items, call=call, i=i: call.bytes() == b"%d\n" % i, 200)
        assert not any(call.response.done() for call in calls), "all 64 run at the same time"
        for call in calls:
            execution = call.items[0][1]["execution_id"]
            await client.call("execute.input", {"execution_id": execution, "text": "\n", "eof": True}, 200)
        for call in calls:
            assert (await call.result(200))["exit_code"] == 0


async def test_files_arguments_environment_and_directory(system):
    async with Client(system) as client:
        result = await client.run(
            "import os, sys, helper\nprint(sys.argv[1:], os.environ['COLOUR'], helper.VALUE, open('data/x.bin', 'rb').read())",
            files=[{"path": "helper.py", "text": "VALUE = 7\n"}, {"path": "data/x.bin", "data": "AP8="}],
            args=["a b", "c"],
            config={"environment": {"COLOUR": "green"}},
        )
        assert result["stdout"] == "['a b', 'c'] green 7 b'\\x00\\xff'\n", result
        result = await client.call(
            "execute.code", {"language": "python", "entry": "tool.py", "files": [{"path": "tool.py", "text": "print(__name__)"}]}
        )
        assert result["stdout"] == "__main__\n", result
        result = await client.run("pwd", "bash", files=[{"path": "sub/f", "text": ""}], config={"working_directory": "sub"})
        assert result["stdout"] == "/workspace/sub\n", result
        result = await client.run("import sys; print(sys.stdin.read())", stdin="all of it")
        assert result["stdout"] == "all of it\n"


async def test_collected_output_is_truncated_not_lost_silently(system):
    async with Client(system) as client:
        result = await client.run("print('x' * 5000)", config={"max_output_size": 1000})
        assert result["truncated"] is True and len(result["stdout"]) == 1000
        assert result["exit_code"] == 0


async def test_a_sessions_runs_share_a_workspace_and_nothing_else(system):
    async with Client(system) as one, Client(system) as other:
        assert (await one.run("open('mine', 'w').write('1')"))["exit_code"] == 0
        assert (await one.run("print(open('mine').read())"))["stdout"] == "1\n"
        assert "FileNotFoundError" in (await other.run("open('mine')"))["stderr"]
        info = await one.call("connection.info")
        assert (await other.run("print(open('mine').read())", session_id=info["session_id"]))["stdout"] == "1\n"


async def test_attach_replays_and_follows(system):
    async with Client(system) as one, Client(system) as other:
        call = await one.stream("print('early', flush=True)\ninput()\nprint('late')")
        await call.until(lambda items: b"early" in call.bytes())
        names = {key: call.items[0][1][key] for key in ("execution_id", "session_id")}
        copy = await other.start("execute.attach", {**names, "offset": 2})
        await copy.until(lambda items: copy.bytes() == b"rly\n")
        await one.call("execute.input", {"execution_id": names["execution_id"], "text": "\n"})
        assert (await call.result())["bytes"] == 11
        assert (await copy.result())["exit_code"] == 0 and copy.bytes() == b"rly\nlate\n"
        again = await other.start("execute.attach", names)
        assert (await again.result())["exit_code"] == 0 and again.bytes() == b"early\nlate\n"
        with pytest.raises(RpcError) as error:
            await other.call("execute.attach", {**names, "execution_id": "nobody"})
        assert error.value.code == -32007


async def test_an_execution_id_is_run_once(system):
    async with Client(system) as client:
        params = {"code": "import time; print(time.time_ns())", "execution_id": "once"}
        first = await client.call("execute.code", params)
        assert (await client.call("execute.code", params))["stdout"] == first["stdout"]
        with pytest.raises(RpcError) as error:
            await client.call("execute.code", {**params, "code": "print(2)"})
        assert error.value.code == -32008


async def test_an_execution_outlives_its_connection(system):
    async with Client(system) as client:
        call = await client.stream("import time\nfor i in range(40):\n    print(i, flush=True)\n    time.sleep(0.1)")
        await call.until(lambda items: b"3\n" in call.bytes())
        seen = call.bytes()
        names = {key: call.items[0][1][key] for key in ("execution_id", "session_id")}
    async with Client(system) as client:
        rest = await client.start("execute.attach", {**names, "offset": len(seen)})
        assert (await rest.result())["exit_code"] == 0
        assert seen + rest.bytes() == b"".join(b"%d\n" % i for i in range(40))


async def test_a_client_that_does_not_read_blocks_its_program_alone(system):
    async with Client(system, max_queue=1) as slow, Client(system) as quick:
        call = await slow.stream("import sys\nwhile True: sys.stdout.write('x' * 65536)", config={"timeout": 100})
        await call.until(lambda items: len(call.bytes()) > 1_000_000)
        slow._reader.cancel()  # from here on nobody reads the socket
        await asyncio.gather(slow._reader, return_exceptions=True)
        names = {key: call.items[0][1][key] for key in ("execution_id", "session_id")}

        async def produced():
            listing = await quick.call("execute.list", {"session_id": names["session_id"]})
            return listing["executions"][0]["bytes"]

        before = await produced()
        while True:
            await asyncio.sleep(0.5)
            now = await produced()
            if now == before:
                break
            before = now
        assert (await quick.run("print('beside')"))["stdout"] == "beside\n"
        assert await produced() == before
        await quick.call("execute.cancel", names)
