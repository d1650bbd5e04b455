# The parent of the warm Python interpreters (warm_interpreter.h). The agent runs it from a memory file as
#   LD_PRELOAD=/proc/self/fd/5 python3 /proc/self/fd/4 PROGRAM [MODULE...]
# with its control socket as descriptor 3; PROGRAM is argv[0] of the runs it may serve, MODULEs are imported ahead. Descriptor
# 5 is the native half, module.h, which says what it does.
#
# The parent says "up" once. For each socket that comes on the control socket it forks a helper, which does what helper.cc
# does (child subreaper, reaps all, reports), but for one run after the other: for each message on its socket it forks a
# spare, reports in the pipe that came with the message until nothing of the run is left, and says "idle" in its socket.
# A spare waits on the job socket that came with the message for a job and then becomes the program. What a spare cannot be
# like a cold start in, it leaves to one: it executes the program.
#
# Page faults are most of a start, so a spare has the memory that a run touches for its own before its job comes.
import sys

del sys.path[0]  # /proc/self/fd

import _signal  # the built-in half of signal, which would load enum
import atexit
import ctypes
import errno
import gc
import io
import os
import stat
import struct

CONTROL = 3
PR_SET_DUMPABLE = 4
PRESENT, EXCLUSIVE = 1 << 63, 1 << 56  # in /proc/self/pagemap
PAGE, BLOCK = 4096, 2 << 20
MAPPED_AT_ONCE = 64 << 10  # by a read fault in a file
LARGEST_MAPPING = 64 << 20
FEWEST_PAGES_OF_CODE = 32
LARGEST_JOB = 64 << 10
MAP_PRIVATE_ANONYMOUS, MAP_FIXED_NOREPLACE = 0x2 | 0x20, 0x100000
MAP_FAILED = 2 ** 64 - 1
# What an interpreter reads from its environment at its start and a spare can do later.
KNOWN_VARIABLES = {b"PYTHONUNBUFFERED", b"PYTHONDONTWRITEBYTECODE"}
SourceFileLoader = sys.modules["_frozen_importlib_external"].SourceFileLoader
SimpleNamespace = type(sys.implementation)
ModuleType = type(sys)

native = ctypes.PyDLL(None)
native.runbus_take_job.restype = ctypes.c_long
native.mmap.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
native.mmap.restype = ctypes.c_void_p
native.munmap.argtypes = ctypes.c_void_p, ctypes.c_size_t


class Range(ctypes.Structure):
    _fields_ = [("start", ctypes.c_uint64), ("size", ctypes.c_uint64), ("writable", ctypes.c_uint64)]


class Memory(ctypes.Structure):
    _fields_ = [("blocks", ctypes.POINTER(Range)), ("block_count", ctypes.c_uint64),
                ("pages", ctypes.POINTER(Range)), ("page_count", ctypes.c_uint64)]


def set_dumpable(value):
    native.prctl(PR_SET_DUMPABLE, ctypes.c_ulong(value), 0, 0, 0)


def take_lists(data):
    words = iter(data.split(b"\0"))
    return [[next(words) for _ in range(int(next(words)))] for _ in range(2)]


def set_environment(environment):
    os.environ.clear()
    for line in environment:
        name, _, value = line.partition(b"=")
        os.environb[name] = value


def is_as_at_start(environment, own_locale):
    locale = None
    for line in environment:
        if line.startswith(b"PYTHON"):
            name, _, value = line.partition(b"=")
            if not (name in KNOWN_VARIABLES and value):
                return False
        elif line.startswith((b"LC_ALL=", b"LC_CTYPE=")):
            return False
        elif line.startswith(b"LANG="):
            locale = line[5:]
    return locale == own_locale


# The source and the file's real path, or None where only a cold start is right.
def read_source(argv):
    site = "/.local/lib/python%d.%d/site-packages" % sys.version_info[:2]
    if os.path.exists(os.environ.get("HOME", "") + site):
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


def end_program(own_modules):
    main = sys.modules.pop("__main__").__dict__
    loaded = [name for name in sys.modules if name not in own_modules]
    modules = [sys.modules.pop(name) for name in loaded]
    clear_namespace(main)
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
    path = os.path.abspath(script)
    sys.argv = [script, *map(os.fsdecode, argv[2:])]
    sys.orig_argv = list(map(os.fsdecode, argv))
    sys.path.insert(0, os.path.dirname(real_path))
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
def run_dry(own_locale):
    own = sys.modules["__main__"]
    streams = [sys.stdin, sys.stdout, sys.stderr]
    environment = [name + b"=" + value for name, value in os.environb.items()]
    set_environment(environment)
    is_as_at_start(environment, own_locale)
    read_source([b"", b"/dev/null"])
    os.path.dirname(os.path.abspath("main.py"))
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


# What is mapped: (start, end, permissions, name).
def mappings():
    with open("/proc/self/maps") as maps:
        for line in maps.read().splitlines():
            addresses, permissions, _, _, _, *name = line.split(None, 5)
            start, end = (int(word, 16) for word in addresses.split("-"))
            yield start, end, permissions, "".join(name)


# The pages of ours that are our own copy, or of a file and mapped: (address, writable).
def touched_pages():
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for start, end, permissions, name in mappings():
            if permissions[0] != "r" or permissions[3] != "p" or end - start > LARGEST_MAPPING or name == "[vdso]":
                continue
            writable = permissions[1] == "w"
            wanted = PRESENT | EXCLUSIVE if writable else PRESENT
            entries = os.pread(pagemap.fileno(), (end - start) // PAGE * 8, start // PAGE * 8)
            for i, (entry,) in enumerate(struct.iter_unpack("=Q", entries)):
                if entry & wanted == wanted:
                    yield start + i * PAGE, writable


# Has a child run a program, as a spare would, and tell which memory it touched for that. Nothing, if that fails: then a run
# takes its page faults one by one.
def learn_touched_pages(program, own_locale):
    source, result = os.memfd_create("source"), os.memfd_create("result")
    os.write(source, DRY_PROGRAM)
    child = os.fork()
    if not child:
        leave = os._exit

        def tell(code):
            pages = b"".join(struct.pack("=Q?", *page) for page in touched_pages())
            os.ftruncate(1, 0)
            os.pwrite(1, pages, 0)
            leave(0)

        try:
            os._exit = tell
            set_dumpable(1)  # else these files of /proc are not ours
            os.dup2(source, 0)
            os.dup2(result, 1)
            environment = [b"LANG=" + own_locale] * bool(own_locale) + [b"PYTHONDONTWRITEBYTECODE=1"]
            run(program, own_locale, [program, b"/proc/self/fd/0"], environment)
        finally:
            leave(1)
    status = os.waitpid(child, 0)[1]
    told = b"" if status else os.pread(result, 9 << 15, 0)
    os.close(source)
    os.close(result)
    return list(struct.iter_unpack("=Q?", told))


def block_of(address):
    return address & -BLOCK


# What lies in a block: (start, end, permissions, name).
def parts_of(block, layout):
    return [(max(start, block), min(end, block + BLOCK), permissions, name)
            for start, end, permissions, name in layout if start < block + BLOCK and end > block]


def is_code(parts):
    return (sum(end - start for start, end, _, _ in parts) == BLOCK and len({name for *_, name in parts}) == 1
            and all(permissions in ("r-xp", "r--p") for _, _, permissions, _ in parts))


def is_data(parts):
    return (any(permissions == "rw-p" for _, _, permissions, _ in parts)
            and all(permissions in ("rw-p", "r--p") and name != "[stack]" for _, _, permissions, name in parts))


def fill_gaps(block, parts):
    at = block
    for start, end in [(start, end) for start, end, _, _ in parts] + [(block + BLOCK, 0)]:
        if at < start:
            native.mmap(at, start - at, 3, MAP_PRIVATE_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0)
        at = end


# The blocks that are worth a large page, of code and of data. Constants that share a block with data become writable; reading
# them is no cost, since the kernel maps their neighbours along.
def worthwhile_blocks(pages):
    if len(os.listdir("/proc/self/task")) > 1:
        return [], []  # another thread could write to what is being copied
    counts, written = {}, {}
    for page, writable in pages:
        block = block_of(page)
        counts[block] = counts.get(block, 0) + 1
        written[block] = written.get(block, 0) + writable
    fewest = pages_of_a_blocks_cost([page for page in pages if page[1]])
    if fewest is None:
        return [], []
    layout = list(mappings())
    code, data = [], []
    for block, count in sorted(counts.items()):
        parts = parts_of(block, layout)
        if count >= FEWEST_PAGES_OF_CODE and is_code(parts):
            code.append(block)
        elif written[block] >= fewest and is_data(parts):
            fill_gaps(block, parts)
            data.append(block)
    return code, data


def as_ranges(pages, size):
    ranges = []
    for start, writable in pages:
        if ranges and ranges[-1][0] + ranges[-1][1] == start and ranges[-1][2] == writable:
            ranges[-1][1] += size
        else:
            ranges.append([start, size, writable])
    return (Range * len(ranges))(*(Range(*each) for each in ranges))


def own(blocks, writable):
    ranges = as_ranges([(block, writable) for block in blocks], BLOCK)
    return ranges if native.runbus_own(ranges, ctypes.c_uint64(len(ranges))) == 0 else None


def size_of_large_pages():
    with open("/proc/self/smaps") as smaps:
        return sum(int(line.split()[1]) for line in smaps if line.startswith("AnonHugePages:")) << 10


# What is to be touched one by one: what is written, and what else the kernel does not map along with its neighbours.
def single_pages(pages, blocks):
    windows = set()
    for page, writable in pages:
        if block_of(page) not in blocks and (writable or page // MAPPED_AT_ONCE not in windows):
            windows.add(page // MAPPED_AT_ONCE)
            yield page, writable


# Microseconds of processor time that a child needs to have this memory.
def cost_of(memory):
    child = os.fork()
    if not child:
        try:
            native.runbus_prepare(ctypes.byref(memory))
        finally:
            os._exit(0)
    usage = os.wait4(child, 0)[2]
    return (usage.ru_utime + usage.ru_stime) * 1e6


# How many pages that are written cost as much as the copy of a block. Seen: 200, and 6 where each page's fault goes by way of a
# hypervisor. None: there are no large pages, or nothing to compare.
def pages_of_a_blocks_cost(written):
    at = native.mmap(0, 2 * BLOCK, 3, MAP_PRIVATE_ANONYMOUS, -1, 0)
    if at == MAP_FAILED:
        return None
    block, pages, nothing = own([block_of(at + BLOCK - 1)], True), as_ranges(written, PAGE), as_ranges([], PAGE)
    fewest = None
    if block is not None and written and size_of_large_pages() >= BLOCK:
        bare, all_pages, one_block = (
            min(cost_of(memory) for _ in range(3))
            for memory in (Memory(nothing, 0, nothing, 0), Memory(nothing, 0, pages, len(pages)), Memory(block, 1, nothing, 0)))
        fewest = (one_block - bare) / max((all_pages - bare) / len(written), 0.1)
    native.munmap(at, 2 * BLOCK)
    return fewest


def lay_out_memory(program, own_locale):
    pages = learn_touched_pages(program, own_locale)
    code, data = worthwhile_blocks(pages)
    ranges = own(data, True)
    if ranges is None or size_of_large_pages() < len(data) * BLOCK:
        ranges, code, data = as_ranges([], BLOCK), [], []  # there were no more of them: page by page
    own(code, False)
    rest = as_ranges(single_pages(pages, {*code, *data}), PAGE)
    return Memory(ranges, len(ranges), rest, len(rest))


def main():
    program = os.fsencode(sys.argv[1])
    own_locale = os.environb.get(b"LANG")
    set_dumpable(0)
    for name in sys.argv[2:]:
        try:
            __import__(name)
        except Exception:
            pass  # a run that needs it will say so
    strings = ctypes.create_string_buffer(LARGEST_JOB)
    run_dry(own_locale)
    native.runbus_settle()
    gc.collect()
    gc.freeze()
    memory = lay_out_memory(program, own_locale)
    job = native.runbus_serve(CONTROL, ctypes.byref(memory))
    # Here is a spare.
    gc.freeze()
    size = native.runbus_take_job(job, strings)
    run(program, own_locale, *take_lists(ctypes.string_at(strings, size)))


main()
