# The parent of the warm Python interpreters (warm_pool.h). The agent runs it from a memory file as
#   python3 /proc/self/fd/4 PROGRAM [MODULE...]
# with its control socket as descriptor 3; PROGRAM is argv[0] of the runs it may serve, MODULEs are imported ahead.
#
# For each message on the control socket it makes a pair: a helper, which does in Python what helper.cc does
# (child subreaper, reaps all, reports in the pipe that came with the message), and below it a spare, which waits on the socket that came with the message for a job and then becomes the program. What a spare cannot be
# like a cold start in, it leaves to one: it executes the program.
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
STARTED, EXITED, GONE, READY = 1, 4, 5, 6
HIGHEST_FD = 4096
# What an interpreter reads from its environment at its start and a spare can do later.
KNOWN_VARIABLES = {b"PYTHONUNBUFFERED", b"PYTHONDONTWRITEBYTECODE"}

libc = ctypes.CDLL(None)


def prctl(option, value):
    libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def report(pipe, *records):
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = int((usage.ru_utime + usage.ru_stime) * 1e6)
    os.write(pipe, b"".join(struct.pack("=IiQQ", kind, value, cpu, usage.ru_maxrss * 1024)
                            for kind, value in records))


def help_until_none_is_left(pipe, spare):
    os.closerange(0, pipe)
    os.closerange(pipe + 1, HIGHEST_FD)
    report(pipe, (READY, os.getpid()), (STARTED, spare))
    program_status = None
    while True:
        try:
            # Once the program has ended, what is left is asked for without waiting, so that the end is told at once.
            pid, status = os.waitpid(-1, WALL | (os.WNOHANG if program_status else 0))
        except ChildProcessError:
            if program_status:
                report(pipe, program_status, (GONE, 0))
            else:
                report(pipe, (GONE, 0))
            os._exit(0)
        if pid == spare:
            program_status = (EXITED, status)
        elif pid == 0:
            report(pipe, program_status)
            program_status = None


def make_pair(job_fd, pipe):
    if os.fork():
        os.close(job_fd)
        os.close(pipe)
        return None
    try:
        os.setsid()
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        spare = os.fork()
        if spare:
            help_until_none_is_left(pipe, spare)
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.close(CONTROL)
        os.close(pipe)
        return job_fd
    except BaseException:
        os._exit(1)


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


def standard_streams():
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

    sys.stdout = sys.__stdout__ = writer(1, "<stdout>", old, False)
    sys.stderr = sys.__stderr__ = writer(2, "<stderr>", "backslashreplace", True)
    raw = io.FileIO(0, "rb", closefd=False)
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


# Shows the exception as a cold start would: without our frame.
def show(error):
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
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
    main = sys.modules.pop("__main__").__dict__
    loaded = [name for name in sys.modules if name not in own_modules]
    modules = [sys.modules.pop(name) for name in loaded]
    clear_namespace(main)
    gc.collect()
    for module in reversed(modules):
        if type(module) is types.ModuleType and getattr(module, "__file__", None):
            clear_namespace(module.__dict__)
    gc.collect()
    code = flush_standard_streams(code)
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)


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
    main = become_main(path)
    ended_with = None
    try:
        exec(compile(source, path, "exec", dont_inherit=True), main)
    except BaseException as error:
        ended_with = error
    del source, main
    finish(ended_with, own_modules)


# Touches what a run will touch, in the spare and ahead of the job: page faults are most of a start.
def warm_up():
    scope = {}
    exec(compile("class A:\n  def f(self, *a, **k): return [str(x) for x in a]\nx = A().f(1, 2.0, 'c')\n",
                 "<warm>", "exec"), scope)
    io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "wb", closefd=False)), encoding="utf-8").write("x")
    os.path.realpath("/proc/self")


def main():
    program = os.fsencode(sys.argv[1])
    own_locale = os.environb.get(b"LANG")
    prctl(PR_SET_DUMPABLE, 0)
    for name in sys.argv[2:]:
        try:
            importlib.import_module(name)
        except Exception:
            pass  # a run that needs it will say so
    # Their ends are for the kernel to see, nobody else.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=CONTROL) as control:
        while True:
            data, fds, _, _ = socket.recv_fds(control, 16, 2)
            if not data:
                os._exit(0)
            if len(fds) == 2:
                job_fd = make_pair(*fds)
                if job_fd is not None:
                    control.detach()
                    break
    warm_up()
    run(program, job_fd, own_locale)


main()
