# The parent of the warm Python interpreters (warm_interpreter.h), behind memory.py in one script. The agent runs it from a memory file as
#   LD_PRELOAD=/proc/self/fd/5 python3 /proc/self/fd/4 PROGRAM [MODULE...]
# with its control socket as descriptor 3; PROGRAM is argv[0] of the runs it may serve, MODULEs are imported ahead. Descriptor
# 5 is the native half, module.h, which says what it does; 6 is the environment that most runs have, as in a job.
#
# The parent says "up" once. For each socket that comes on the control socket it forks a helper, which does what helper.cc
# does (child subreaper, reaps all, reports), but for one run after the other: for each message on its socket it forks a
# spare, reports in the pipe that came with the message until nothing of the run is left, and says "idle" in its socket.
# A spare waits on the job socket that came with the message for a job and then becomes the program. What a spare cannot be
# like a cold start in, it leaves to one: it executes the program.
#
# Page faults are most of a start, so a spare has the memory that a run touches for its own before its job comes. And a run
# touches little: what the usual run needs is made by the parent, once, and only the names of the run's own are put in.
import _signal  # the built-in half of signal, which would load enum
import atexit
import ctypes
import errno
import gc
import io
import os
import stat

USUAL_ENVIRONMENT = 6
PR_SET_DUMPABLE = 4
LARGEST_JOB = 64 << 10
REHEARSALS = 12
# What an interpreter reads from its environment at its start and a spare can do later.
KNOWN_VARIABLES = {b"PYTHONUNBUFFERED=1", b"PYTHONDONTWRITEBYTECODE=1"}
DONT_WRITE_BYTECODE = 4  # in sys.flags
SourceFileLoader = sys.modules["_frozen_importlib_external"].SourceFileLoader
SimpleNamespace = type(sys.implementation)
ModuleType = type(sys)

native.runbus_serve.restype = native.runbus_rehearse.restype = ctypes.py_object


class Usual(ctypes.Structure):
    _fields_ = [("program", ctypes.c_char_p), ("environment", ctypes.c_char_p), ("environment_size", ctypes.c_uint64),
                ("site", ctypes.c_char_p)]


def set_dumpable(value):
    native.prctl(PR_SET_DUMPABLE, ctypes.c_ulong(value), 0, 0, 0)


def take_list(words):
    return [next(words) for _ in range(int(next(words)))]


def take_lists(data):
    words = iter(data.split(b"\0"))
    return take_list(words), take_list(words)


def set_environment(environment):
    os.environ.clear()
    for line in environment:
        name, _, value = line.partition(b"=")
        os.environb[name] = value


# What else an interpreter takes from the environment.
def follow_environment():
    sys.dont_write_bytecode = b"PYTHONDONTWRITEBYTECODE" in os.environb
    flag = ctypes.py_object(int(sys.dont_write_bytecode))
    native.Py_IncRef(flag)
    native.PyStructSequence_SetItem(ctypes.py_object(sys.flags), ctypes.c_ssize_t(DONT_WRITE_BYTECODE), flag)
    if "TZ" in os.environ and "time" in sys.modules:
        sys.modules["time"].tzset()


def is_as_at_start(environment, own_locale):
    locale = None
    for line in environment:
        if line.startswith(b"PYTHON"):
            if line not in KNOWN_VARIABLES:
                return False
        elif line.startswith((b"LC_ALL=", b"LC_CTYPE=")):
            return False
        elif line.startswith(b"LANG="):
            locale = line[5:]
    return locale == own_locale


def user_site():
    return os.environ.get("HOME", "") + "/.local/lib/python%d.%d/site-packages" % sys.version_info[:2]


# The source and the file's real path, or None where only a cold start is right.
def read_source(argv):
    if os.path.exists(user_site()):
        return None
    try:
        fd = os.open(argv[1], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        real_path = os.readlink("/proc/self/fd/%d" % fd)
        source = file.read()
    return None if b"\0" in source else (source, real_path)


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


# The streams of the usual run: output to pipes, input from /dev/null. Returns its input from a pipe.
def usual_streams():
    ends, null = os.pipe(), os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    own = [os.dup(fd) for fd in range(3)]
    for fd in range(3):
        os.dup2(ends[fd > 0], fd)
    standard_streams()
    from_pipe = sys.stdin
    os.dup2(null, 0)
    standard_streams()
    for fd in range(3):
        os.dup2(own[fd], fd)
    for fd in *ends, null, *own:
        os.close(fd)
    return from_pipe


def become_main(path):
    main = ModuleType("__main__")
    main.__dict__.update(
        __file__=path, __cached__=None, __builtins__=sys.modules["builtins"], __annotations__={},
        __loader__=SourceFileLoader("__main__", path))
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
            sys.unraisablehook(SimpleNamespace(
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
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        os.kill(os.getpid(), _signal.SIGINT)
    os._exit(code)


# The names of the modules that the program has loaded. To look at a name is to write to it, so if all the others are where
# they were, only these are looked at.
def loaded_modules(own_modules):
    loaded = []
    for name in reversed(sys.modules):
        if name in own_modules:
            break
        loaded.append(name)
    if len(sys.modules) - len(loaded) != len(own_modules):
        return [name for name in sys.modules if name not in own_modules]
    return loaded[::-1]


def end_program(own_modules):
    modules = [sys.modules.pop(name) for name in loaded_modules(own_modules)]
    clear_namespace(getattr(sys.modules.pop("__main__", None), "__dict__", {}))
    gc.collect()
    own = [module for module in reversed(modules)
           if type(module) is ModuleType and getattr(module, "__file__", None)]
    for module in own:
        clear_namespace(module.__dict__)
    if own:
        gc.collect()


def execute(argv):
    try:
        os.execvpe(argv[0], argv, os.environb)
    except OSError as error:
        os.write(2, b"runbus: cannot run %s: %s\n" % (argv[0], os.strerror(error.errno).encode()))
        os._exit(127 if error.errno in (errno.ENOENT, errno.ENOTDIR) else 126)


def run(program, own_locale, argv, environment):
    set_environment(environment)
    found = None
    if argv[0] == program and len(argv) > 1 and argv[1][:1] != b"-" and is_as_at_start(environment, own_locale):
        found = read_source(argv)
    if not found:
        execute(argv)
    source, real_path = found
    script = os.fsdecode(argv[1])
    sys.argv = [script, *map(os.fsdecode, argv[2:])]
    sys.orig_argv = list(map(os.fsdecode, argv))
    sys.path.insert(0, os.path.dirname(real_path))
    follow_environment()
    standard_streams()
    own_modules = set(sys.modules)
    path = os.path.abspath(script)
    finish(run_program(source, become_main(path), path), own_modules)


# A run that is usual (RunbusUsual): the environment, `__main__`, streams and modules are there. Returns what it ended with.
def run_usual(usual, source, path, directory, script, arguments, piped):
    main, from_pipe = usual
    sys.argv = [script]
    if arguments:
        sys.argv += map(os.fsdecode, arguments[:-1].split(b"\0"))
    sys.orig_argv[1:] = sys.argv
    sys.path.insert(0, directory)
    main["__file__"] = main["__loader__"].path = path
    if piped:
        sys.stdin = sys.__stdin__ = from_pipe
    return run_program(source, main, path)


def run_program(source, main, path):
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # the standard library's generator is seeded by fork itself
    try:
        exec(compile(source, path, "exec", dont_inherit=True), main)
    except BaseException as error:
        # Without our frame, as a cold start shows it.
        error.__traceback__ = error.__traceback__.tb_next
        return error
    return None


# What is rehearsed: much of what programs do.
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
# Whose memory spares have for their own: what every program does. To have a page ahead costs about as much as the fault that
# it spares, so what only some programs do is left to their faults.
LEAST_PROGRAM = b"print(1)\n"


# Makes what the usual run needs.
def make_usual(program):
    sys.orig_argv = [os.fsdecode(program), ""]
    from_pipe = usual_streams()
    return become_main(""), from_pipe


# Does what a usual run does, into the parent's own streams, which nobody reads: for what is made at its first use, and so
# often that the interpreter has adapted our code, which it does by writing to it.
def rehearse(program):
    own = sys.modules["__main__"]
    streams = [sys.stdin, sys.stdout, sys.stderr]
    for _ in range(REHEARSALS):
        usual = make_usual(program)
        own_modules = set(sys.modules)
        exit_code_of(run_usual(usual, DRY_PROGRAM, "/main.py", "/", "main.py", b"", 0))
        flush_standard_streams(0)
        end_program(own_modules)
        del sys.path[0]
    sys.modules["__main__"] = own
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__ = streams
    del sys.last_type, sys.last_value, sys.last_traceback


# Makes a plan of what a run touches, which is what a child has touched that does one. Another child looks and plans, since what
# a process does changes its memory, and the spares shall find what this child finds. It stays empty if that fails: then a run
# takes its page faults one by one.
def make_plan(plan, usual, made):
    has_threads = len(os.listdir("/proc/self/task")) > 1
    source, result = os.memfd_create("source"), os.memfd_create("result")
    os.write(source, LEAST_PROGRAM)
    said, wait = os.pipe(), os.pipe()
    own_modules = set(sys.modules)

    def tell(code):
        os.write(said[1], b"!")
        os.read(wait[0], 1)  # until it is killed

    leave, os._exit = os._exit, tell
    job = native.runbus_rehearse(source, ctypes.byref(usual))
    if type(job) is tuple:
        finish(run_usual(made, *job), own_modules)
    os._exit = leave
    if type(job) is bytes:
        leave(1)
    os.close(said[1])
    looker = os.fork()
    if not looker:
        try:
            if os.read(said[0], 1):
                os.write(result, plan_of(list(touched_pages(job)), has_threads))
        finally:
            leave(0)
    os.waitpid(looker, 0)
    os.kill(job, _signal.SIGKILL)
    os.waitpid(job, 0)
    os.preadv(result, [plan], 0)
    for fd in source, result, said[0], *wait:
        os.close(fd)


def lay_out_memory(usual, made):
    plan = Plan()
    make_plan(plan, usual, made)
    code, data, gaps, pages, all_pages = plan.lists()
    for gap in gaps:
        native.mmap(gap.start, gap.size, 3, MAP_PRIVATE_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0)
    if len(data) and (not own(data) or size_of_large_pages() < sum(block.size for block in data)):
        return Memory(data, 0, all_pages, len(all_pages))  # there were no more of them: page by page
    own(code)
    return Memory(data, len(data), pages, len(pages))


# Becomes as a run with the usual environment finds it, if a spare can be so.
def take_usual_environment(program, own_locale):
    data = os.pread(USUAL_ENVIRONMENT, LARGEST_JOB, 0)
    os.close(USUAL_ENVIRONMENT)
    environment = take_list(iter(data.split(b"\0")))
    if not is_as_at_start(environment, own_locale):
        environment, data = [], b"0\0"
    set_environment(environment)
    follow_environment()
    return Usual(program, data, len(data), os.fsencode(user_site()))


def main():
    program = os.fsencode(sys.argv[1])
    own_locale = os.environb.get(b"LANG")
    set_dumpable(0)
    for name in sys.argv[2:]:
        try:
            __import__(name)
        except Exception:
            pass  # a run that needs it will say so
    usual = take_usual_environment(program, own_locale)
    rehearse(program)
    native.runbus_settle()
    made = make_usual(program)
    own_modules = set(sys.modules)
    gc.collect()
    gc.freeze()
    memory = lay_out_memory(usual, made)
    gc.collect()  # which also gives back what the interpreter keeps of freed objects; at the end of a run that is copies of pages
    gc.freeze()
    job = native.runbus_serve(ctypes.byref(memory), ctypes.byref(usual))
    # Here is a spare, with its job.
    if type(job) is tuple:
        finish(run_usual(made, *job), own_modules)
    run(program, own_locale, *take_lists(job))


main()
