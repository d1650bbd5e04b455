# The parent of the warm Python interpreters (warm_pool.h). The agent runs it from a memory file as
#   python3 /proc/self/fd/4 PROGRAM [MODULE...]
# with its control socket as descriptor 3; PROGRAM is argv[0] of the runs it may serve, MODULEs are imported ahead.
# It says "up" once. For each socket that comes on the control socket it forks a helper, which does in Python what helper.cc
# does (child subreaper, reaps all, reports), but for one run after the other: for each message on its socket it forks a
# spare, reports in the pipe that came with the message until nothing of the run is left, and says "idle" in its socket.
# A spare waits on the job socket that came with the message for a job and then becomes the program. What a spare cannot be
# like a cold start in, it leaves to one: it executes the program.
#
# Page faults are most of a start, so a spare has the pages populated that a run touches, before its job comes.
import sys

del sys.path[0]  # /proc/self/fd

import atexit
import ctypes
import errno
import gc
import importlib
import importlib.machinery
import io
import os
import resource
import signal
import socket
import stat
import struct
import types

CONTROL = 3
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
WALL = 0x40000000
MADV_POPULATE_READ, MADV_POPULATE_WRITE = 22, 23
PRESENT, EXCLUSIVE = 1 << 63, 1 << 56  # in /proc/self/pagemap
PAGE = resource.getpagesize()
LARGEST_MAPPING = 64 << 20
STARTED, EXITED, GONE, READY = 1, 4, 5, 6
HIGHEST_FD = 4096
# What an interpreter reads from its environment at its start and a spare can do later.
KNOWN_VARIABLES = {b"PYTHONUNBUFFERED", b"PYTHONDONTWRITEBYTECODE"}

libc = ctypes.CDLL(None)
libc.madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
libc.memmove.argtypes = libc.memcmp.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t


def prctl(option, value):
    libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def receive(control, count):
    data, fds, _, _ = socket.recv_fds(control, 16, count)
    if not data:
        os._exit(0)
    if len(fds) != count:
        os._exit(1)  # no descriptor is free: the agent starts anew
    return fds


def pack_records(cpu, peak, records):
    return b"".join(struct.pack("=IiQQ", kind, value, int(cpu * 1e6), peak * 1024) for kind, value in records)


# In one write, so whole or not at all.
def report(pipe, cpu, peak, *records):
    os.write(pipe, pack_records(cpu, peak, records))


def help_until_none_is_left(pipe, spare):
    report(pipe, 0, 0, (READY, os.getpid()), (STARTED, spare))
    cpu, peak, program_status = 0, 0, ()
    options = os.WNOHANG  # at first, so that the pages for this are our own before there is a hurry
    while True:
        try:
            pid, status, usage = os.wait4(-1, WALL | options)
        except ChildProcessError:
            report(pipe, cpu, peak, *program_status, (GONE, 0))
            return
        cpu += usage.ru_utime + usage.ru_stime
        peak = max(peak, usage.ru_maxrss)
        if pid == spare:
            # What is left is asked for without waiting, so that the end is told at once.
            program_status, options = ((EXITED, status),), os.WNOHANG
        elif pid == 0:
            if program_status:
                report(pipe, cpu, peak, *program_status)
            else:
                pack_records(cpu, peak, ((EXITED, status), (GONE, 0)))
            program_status, options = (), 0


# Returns in the spares, with the job's socket.
def help(control_fd, ranges):
    os.setsid()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.dup2(control_fd, CONTROL)
    os.closerange(CONTROL + 1, HIGHEST_FD)
    control = socket.socket(fileno=CONTROL)
    while True:
        job_fd, pipe = receive(control, 2)
        spare = os.fork()
        if not spare:
            populate(ranges)  # before anything else touches them one by one
            break
        os.close(job_fd)
        help_until_none_is_left(pipe, spare)
        os.close(pipe)
        control.send(b"idle")
    os.setsid()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    control.detach()
    os.closerange(CONTROL, job_fd)
    os.closerange(job_fd + 1, HIGHEST_FD)
    return job_fd


def read_job(job_fd):
    with socket.socket(fileno=job_fd) as job:
        data, fds, _, _ = socket.recv_fds(job, 1 << 20, 4)
        while data and len(data) < 4 + struct.unpack_from(">I", data)[0]:
            more = job.recv(1 << 20)
            if not more:
                break
            data += more
    if len(fds) != 4:
        os._exit(0)  # no job will come
    words = iter(data[4:].split(b"\0"))
    take = lambda: [next(words) for _ in range(int(next(words)))]
    return fds, take(), take(), take()


def apply_limits(limits):
    for text in limits:
        kind, soft, hard = (int(word) for word in text.split())
        now = resource.getrlimit(kind)[1]
        if now != resource.RLIM_INFINITY:
            hard = min(hard, now)
        # Python has the infinite as -1.
        hard = min(hard, (1 << 63) - 1)
        resource.setrlimit(kind, (min(soft, hard), hard))


def start_like_a_program(fds, environment, limits):
    standard, directory = fds[:3], fds[3]
    for number, fd in enumerate(standard):
        os.dup2(fd, number)
    os.fchdir(directory)
    os.closerange(3, HIGHEST_FD)
    os.environ.clear()
    for line in environment:
        name, _, value = line.partition(b"=")
        os.environb[name] = value
    apply_limits(limits)


# The source, or None where only a cold start is right.
def read_source(program, argv, own_locale):
    if argv[0] != program or len(argv) < 2 or argv[1].startswith(b"-"):
        return None
    for name, value in os.environb.items():
        if name.startswith(b"PYTHON") and not (name in KNOWN_VARIABLES and value):
            return None
        if name in (b"LC_ALL", b"LC_CTYPE"):
            return None
    if os.environb.get(b"LANG") != own_locale:
        return None
    home = os.environ.get("HOME", "/")
    version = "python%d.%d" % sys.version_info[:2]
    if os.path.exists(os.path.join(home, ".local/lib", version, "site-packages")):
        return None
    try:
        fd = os.open(argv[1], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        source = file.read()
    return None if b"\0" in source else source


def standard_streams(stdin=0, stdout=1, stderr=2):
    unbuffered = b"PYTHONUNBUFFERED" in os.environb

    encoding, old = sys.stdout.encoding, sys.stdout.errors

    def writer(fd, name, errors, line_buffering):
        raw = io.FileIO(fd, "wb", closefd=False)
        raw.name = name
        stream = io.TextIOWrapper(raw if unbuffered else io.BufferedWriter(raw), encoding=encoding, errors=errors,
                                  newline="\n", line_buffering=line_buffering and not unbuffered,
                                  write_through=unbuffered)
        stream.mode = "w"
        return stream

    sys.stdout = sys.__stdout__ = writer(stdout, "<stdout>", old, False)
    sys.stderr = sys.__stderr__ = writer(stderr, "<stderr>", "backslashreplace", True)
    raw = io.FileIO(stdin, "rb", closefd=False)
    raw.name = "<stdin>"
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(raw), encoding=encoding, errors=old)
    sys.stdin.mode = "r"


def become_main(path):
    main = types.ModuleType("__main__")
    main.__dict__.update(
        __file__=path, __cached__=None, __builtins__=sys.modules["builtins"], __annotations__={},
        __loader__=importlib.machinery.SourceFileLoader("__main__", path))
    sys.modules["__main__"] = main
    return main.__dict__


def show(error):
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    sys.excepthook(type(error), error, error.__traceback__)


def exit_code_of(error):
    if error is None:
        return 0
    if not isinstance(error, SystemExit):
        show(error)
        return 1
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    sys.stderr.write(str(error.code) + "\n")
    return 1


def clear_namespace(names):
    # As the interpreter does it: private names first.
    for private in (True, False):
        for name in list(names):
            if name != "__builtins__" and name.startswith("_") == private and not name.startswith("__"):
                names[name] = None


def flush_standard_streams(code):
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except BaseException as error:
            sys.unraisablehook(types.SimpleNamespace(
                exc_type=type(error), exc_value=error, exc_traceback=None, err_msg=None, object=stream))
            code = 120
    return code


# What a program sees of an interpreter's end: threads are waited for, exit functions run, and what its own modules hold
# is finalized (an open file is flushed). The interpreter's own modules are not taken apart: that would copy every page that
# the spare shares with its parent, which is as dear as a cold start.
def finish(error, own_modules):
    code = exit_code_of(error)
    interrupted = isinstance(error, KeyboardInterrupt)
    del error
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()
    code = flush_standard_streams(code)
    end_program(own_modules)
    code = flush_standard_streams(code)
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)


def end_program(own_modules):
    main = sys.modules.pop("__main__").__dict__
    loaded = [name for name in sys.modules if name not in own_modules]
    modules = [sys.modules.pop(name) for name in loaded]
    clear_namespace(main)
    gc.collect()
    own = [module for module in reversed(modules)
           if type(module) is types.ModuleType and getattr(module, "__file__", None)]
    for module in own:
        clear_namespace(module.__dict__)
    if own:
        gc.collect()


def run(program, job_fd, own_locale):
    fds, argv, environment, limits = read_job(job_fd)
    start_like_a_program(fds, environment, limits)
    source = read_source(program, argv, own_locale)
    prctl(PR_SET_DUMPABLE, 1)
    if source is None:
        try:
            os.execvpe(argv[0], argv, os.environb)
        except OSError as error:
            os.write(2, b"runbus: cannot run %s: %s\n" % (argv[0], os.strerror(error.errno).encode()))
            os._exit(127 if error.errno in (errno.ENOENT, errno.ENOTDIR) else 126)
    script = os.fsdecode(argv[1])
    path = os.path.abspath(script)
    sys.argv = [script, *map(os.fsdecode, argv[2:])]
    sys.orig_argv = list(map(os.fsdecode, argv))
    sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    sys.dont_write_bytecode = b"PYTHONDONTWRITEBYTECODE" in os.environb
    if "TZ" in os.environ and "time" in sys.modules:
        sys.modules["time"].tzset()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # the standard library's generator is seeded by fork itself
    standard_streams()
    own_modules = set(sys.modules)
    ended_with = run_program(source, path)
    del source
    finish(ended_with, own_modules)


def run_program(source, path):
    main = become_main(path)
    try:
        exec(compile(source, path, "exec", dont_inherit=True), main)
    except BaseException as error:
        # Without our frame, as a cold start shows it.
        error.__traceback__ = error.__traceback__.tb_next
        return error
    return None


DRY_PROGRAM = b"""
import sys, os, io, time
from math import *
class A(object):
    def __init__(self, *a, **k): self.a, self.k = a, dict(k, z=1)
    def f(self): return [str(x) for x in self.a] + sorted(f"{k}={v!r:>4}" for k, v in self.k.items())
def g(n):
    with io.StringIO() as out:
        print(n, 1.5, "x" * 3, A(1, 2.0, b=3).f(), file=out)
        return out.getvalue()
for i in range(20): g(i)
x = {i: i * i for i in range(50)}
y = {"%s %d" % ("a", i) for i in range(9)}
print(1, x, 2.5)
try: {}["x"]
except KeyError as e: print(e)
print("text", file=sys.stderr)
raise ValueError("dry")
"""


# Does what a run does, with /dev/null for its streams, for what is made at its first use.
def run_dry():
    own = sys.modules["__main__"]
    streams = [sys.stdin, sys.stdout, sys.stderr]
    read_source(b"", [b"", b"/dev/null"], os.environb.get(b"LANG"))
    os.environb[b"A"] = b"B"
    del os.environb[b"A"]
    os.path.dirname(os.path.realpath(os.path.abspath("main.py")))
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    standard_streams(null, null, null)
    own_modules = set(sys.modules)
    exit_code_of(run_program(DRY_PROGRAM, "main.py"))
    flush_standard_streams(0)
    end_program(own_modules)
    sys.modules["__main__"] = own
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__ = streams
    os.close(null)
    del sys.last_type, sys.last_value, sys.last_traceback


# The pages of ours that are our own copy, or of a file and mapped: (address, size, advice).
def touched_memory():
    ranges = []
    with open("/proc/self/maps") as maps, open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for line in maps.read().splitlines():
            addresses, permissions, _, _, _, *name = line.split(None, 5)
            start, end = (int(word, 16) for word in addresses.split("-"))
            if permissions[0] != "r" or permissions[3] != "p" or end - start > LARGEST_MAPPING or name[:1] == ["[vdso]"]:
                continue
            writable = permissions[1] == "w"
            wanted = PRESENT | EXCLUSIVE if writable else PRESENT
            advice = MADV_POPULATE_WRITE if writable else MADV_POPULATE_READ
            entries = os.pread(pagemap.fileno(), (end - start) // PAGE * 8, start // PAGE * 8)
            for i, (entry,) in enumerate(struct.iter_unpack("=Q", entries)):
                if entry & wanted == wanted:
                    at = start + i * PAGE
                    if ranges and ranges[-1][2] == advice and at == sum(ranges[-1][:2]):
                        ranges[-1][1] += PAGE
                    else:
                        ranges.append([at, PAGE, advice])
    return ranges


# Has a child run a program, as a spare would, and tell which memory it touched for that. Nothing, if that fails: then a run
# takes its page faults one by one.
def learn_touched_memory(program, own_locale):
    source, result = os.memfd_create("source"), os.memfd_create("result")
    os.write(source, DRY_PROGRAM)
    null = os.open(os.devnull, os.O_WRONLY)
    directory = os.open("/", os.O_RDONLY)
    ours, theirs = socket.socketpair()
    lists = ([program, b"/proc/self/fd/0"], [b"LANG=" + (own_locale or b""), b"PYTHONDONTWRITEBYTECODE=1", b"HOME=/"], [])
    job = b"".join(b"%d\0" % len(texts) + b"".join(text + b"\0" for text in texts) for texts in lists)
    socket.send_fds(ours, [struct.pack(">I", len(job)) + job], [source, result, null, directory])
    child = os.fork()
    if not child:
        leave = os._exit

        def tell(code):
            os.ftruncate(1, 0)
            os.pwrite(1, b"".join(struct.pack("=QQQ", *each) for each in touched_memory()), 0)
            leave(0)

        try:
            os._exit = tell
            run(program, theirs.detach(), own_locale)
        finally:
            leave(1)
    status = os.waitpid(child, 0)[1]
    told = b"" if status else os.pread(result, 24 << 15, 0)
    for fd in (source, result, null, directory):
        os.close(fd)
    ours.close()
    theirs.close()
    return list(struct.iter_unpack("=QQQ", told))


def populate(ranges):
    for start, size, advice in ranges:
        # Before Linux 5.14 this is an error and the pages come one by one.
        libc.madvise(start, size, advice)
        # Under a hypervisor with page tables of its own a page that is mapped still costs a fault when it is touched.
        touch = libc.memmove if advice == MADV_POPULATE_WRITE else libc.memcmp
        for page in range(start, start + size, PAGE):
            touch(page, page, 1)


def main():
    program = os.fsencode(sys.argv[1])
    own_locale = os.environb.get(b"LANG")
    prctl(PR_SET_DUMPABLE, 0)
    for name in sys.argv[2:]:
        try:
            importlib.import_module(name)
        except Exception:
            pass  # a run that needs it will say so
    run_dry()
    gc.collect()
    gc.freeze()
    ranges = learn_touched_memory(program, own_locale)
    # Their ends are for the kernel to see, nobody else.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=CONTROL) as control:
        control.send(b"up")
        while True:
            control_fd, = receive(control, 1)
            if not os.fork():
                break
            os.close(control_fd)
        control.detach()
    try:
        job_fd = help(control_fd, ranges)
    except BaseException:
        os._exit(1)
    gc.freeze()
    run(program, job_fd, own_locale)


main()
