"""A running runbus for tests: the real programs, started by `runbus up` on ephemeral ports."""

import json
import os
import pathlib
import re
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import weakref

BINARY_DIR = pathlib.Path(os.environ.get("RUNBUS_BINARY_DIR", "build/release")).resolve()
SOURCE_DIR = pathlib.Path(os.environ.get("RUNBUS_SOURCE_DIR", pathlib.Path(__file__).parents[3])).resolve()

# How much slower the programs are than in a release build: sanitizers.
SLOWDOWN = float(os.environ.get("RUNBUS_TEST_SLOWDOWN", "1"))

# How long anything may take on a slow, loaded machine before the test says that it hangs.
PATIENCE = 60.0 * SLOWDOWN


def binary(name):
    path = BINARY_DIR / "bin" / name
    assert path.exists(), f"{path} is not built"
    return str(path)


def wait_until(condition, what, timeout=PATIENCE, interval=0.05):
    """Polls `condition` until it gives something true, and returns that. `what`: text, or a function that gives it."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what() if callable(what) else what}"
        time.sleep(interval)


def processes(predicate):
    """[(pid, argv)] of the machine's processes whose argv (a list) satisfies `predicate`."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            raw = pathlib.Path("/proc", entry, "cmdline").read_bytes()
            state = pathlib.Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        argv = [part.decode(errors="replace") for part in raw.split(b"\0") if part]
        if argv and state != "Z" and predicate(argv):
            found.append((int(entry), argv))
    return found


def children(pid):
    """Pids of the living children of `pid`, by program name."""
    result = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = pathlib.Path("/proc", entry, "stat").read_text()
        except OSError:
            continue
        name = stat[stat.index("(") + 1 : stat.rindex(")")]
        fields = stat.rpartition(")")[2].split()
        if int(fields[1]) == pid and fields[0] != "Z":
            argv = pathlib.Path("/proc", entry, "cmdline").read_bytes().split(b"\0")
            result.setdefault(os.path.basename(argv[0].decode()) or name, []).append(int(entry))
    return result


def as_user(uid, *argv):
    """The command line that runs `argv` as an ordinary user who has no other groups (needs root)."""
    return ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", *argv]


def below(pid):
    """Pids of the processes that descend from `pid`."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = int(pathlib.Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                pass
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def check_sanitizers(log):
    """Fails if a program's log has a sanitizer's report: one of an agent comes this way, out of its sandbox."""
    found = re.search(r"\w+Sanitizer: |: runtime error: ", log)
    assert not found, "a sanitizer's report in the log:\n" + log[max(found.start() - 200, 0) : found.start() + 8000]


class System:
    """`runbus up` in a state directory of its own, as the ordinary user `uid` if given. Use as a context manager."""

    def __init__(self, *arguments, state_dir=None, environment=None, uid=None):
        self.state_dir = state_dir or tempfile.mkdtemp(prefix="runbus-test-")
        # Another system may go on with it: what is not used as a context manager removes it when nothing refers to it any more.
        own = state_dir is None
        self._remove_state = weakref.finalize(self, shutil.rmtree, self.state_dir, ignore_errors=True) if own else lambda: None
        # What the suite is run with besides, such as another engine.
        self.arguments = [*arguments, *([] if "--engine" in arguments else shlex.split(os.environ.get("RUNBUS_TEST_UP", "")))]
        self.environment = environment
        self.uid = uid
        if uid is not None:
            os.chown(self.state_dir, uid, uid)
        self.process = None
        self.log = tempfile.TemporaryFile()

    def start(self):
        program = [binary("runbus")] if self.uid is None else as_user(self.uid, binary("runbus"))
        self.process = subprocess.Popen(
            [*program, "up", "--json", "--listen", "127.0.0.1:0", "--state-dir", self.state_dir, *self.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env={**os.environ, **(self.environment or {})},
        )
        line = self._ready_line()
        ready = json.loads(line)
        self.url = ready["url"].split("?")[0].rstrip("/")
        self.ws_url = ready["ws_url"].split("?")[0]
        self.token = ready["token"]
        return self

    def _ready_line(self):
        deadline = time.monotonic() + 2 * PATIENCE
        data = b""
        while b"\n" not in data:
            left = deadline - time.monotonic()
            readable, _, _ = select.select([self.process.stdout], [], [], max(left, 0))
            chunk = os.read(self.process.stdout.fileno(), 65536) if readable else b""
            if not chunk:
                self.stop(check=False)
                raise AssertionError("runbus up did not become ready:\n" + self.log_text())
            data += chunk
        return data.split(b"\n")[0]

    def log_text(self, limit=8000):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-limit:]

    def pids(self, program):
        return children(self.process.pid).get(program, [])

    def kill(self, program):
        """kill -9 of one part; returns its pid."""
        pid = wait_until(lambda: self.pids(program), f"{program} runs")[0]
        os.kill(pid, signal.SIGKILL)
        return pid

    def stop(self, check=True):
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            code = "none: it had to be killed"
        self.process.stdout.close()
        self.process = None
        if check:
            assert code == 0, f"runbus up ended with {code}:\n{self.log_text()}"
            check_sanitizers(self.log_text(limit=1 << 30))

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, value, trace):
        if kind is not None:
            print(self.log_text())
        try:
            self.stop(check=kind is None)
        finally:
            self._remove_state()
