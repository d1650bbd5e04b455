"""Attacks on the sandbox, as Python programs that print what they achieved.

Each prints one line "ESCAPED: ..." if it got what it wanted, and "HELD: ..." if it was refused. `control` says that the same
program does escape under the engine `process`, which has no boundary: so the attack itself is shown to work.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Attack:
    name: str
    code: str
    control: bool = False
    # Why it is no escape that gVisor (runsc) lets it through.
    harmless_in_gvisor: str = ""


PRELUDE = """
import ctypes, errno, os, signal, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def escaped(what): print('ESCAPED:', what, flush=True); os._exit(0)
def held(what): print('HELD:', what, flush=True); os._exit(0)
def syscall(number, *args):
    # The full width of a register for each argument.
    got = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    return got, ctypes.get_errno()
def refused(name, got, error):
    if got >= 0: escaped(name + ' worked')
    held(name + ': ' + errno.errorcode.get(error, str(error)))
"""


def read_file(path):
    return f"""
try:
    text = open({path!r}, 'rb').read(100)
    escaped('read {path}')
except OSError as error:
    held(str(error))
"""


def write_file(path):
    return f"""
try:
    fd = os.open({path!r}, os.O_WRONLY | os.O_NONBLOCK)
    escaped('opened {path} for writing')
except OSError as error:
    held(str(error))
"""


def forbidden(name, number, *args):
    return Attack(name, f"got, error = syscall({number}, {', '.join(map(str, args))})\nrefused({name!r}, got, error)")


CLONE_NEWUSER = 0x10000000
CLONE_NEWNS = 0x00020000

ATTACKS = [
    Attack("host file", "MARK = os.environ['HOST_FILE']\n" + read_file("MARK").replace("'MARK'", "MARK"), control=True),
    Attack("host file by /proc/self/root", "p = '/proc/self/root' + os.environ['HOST_FILE']\n" + read_file("P").replace("'P'", "p"), control=True),
    Attack("shadow", read_file("/etc/shadow")),
    Attack("memory of PID 1", read_file("/proc/1/mem")),
    Attack("environment of PID 1", read_file("/proc/1/environ"), harmless_in_gvisor="the agent has PATH and the like in it, no secret"),
    Attack(
        "descriptors of PID 1",
        "try:\n    names = os.listdir('/proc/1/fd')\n    [os.readlink('/proc/1/fd/' + n) for n in names]\n    escaped(str(names))\n"
        "except OSError as error:\n    held(str(error))\n",
        harmless_in_gvisor="they are listed to everybody; what can be opened by them is the next attack",
    ),
    Attack(
        "open the descriptors of PID 1",
        "import stat\nseen = []\n"
        "for number in range(64):\n"
        "    for flags in (os.O_RDONLY, os.O_WRONLY):\n"
        "        try:\n            fd = os.open(f'/proc/1/fd/{number}', flags | os.O_NONBLOCK)\n        except OSError:\n            continue\n"
        "        mode = os.fstat(fd).st_mode\n"
        "        where = os.readlink(f'/proc/self/fd/{fd}')\n"
        "        if stat.S_ISSOCK(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode) and where not in ('/proc', '/workspace'): escaped(where)\n"
        "        seen.append(where)\n"
        "held(str(seen))\n",
    ),
    Attack("root of PID 1", "try:\n    os.listdir('/proc/1/root/')\n    escaped('listed')\nexcept OSError as error:\n    held(str(error))\n"),
    Attack("ptrace PID 1", "got, error = syscall(101, 16, 1, 0, 0)\nrefused('PTRACE_ATTACH', got, error)"),
    Attack("pidfd_getfd of PID 1", "got, error = syscall(434, 1, 0)\nif got < 0: refused('pidfd_open', got, error)\nrefused('pidfd_getfd', *syscall(438, got, 3, 0))"),
    Attack(
        "process_vm_readv of PID 1",
        "buffer = ctypes.create_string_buffer(16)\n"
        "class IoVec(ctypes.Structure): _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]\n"
        "local = IoVec(ctypes.addressof(buffer), 16); remote = IoVec(0x400000, 16)\n"
        "refused('process_vm_readv', *syscall(310, 1, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0))",
    ),
    Attack("kill PID 1", "try:\n    os.kill(1, signal.SIGTERM)\n    os.kill(1, signal.SIGKILL)\nexcept OSError as error:\n    held(str(error))\nimport time; time.sleep(0.2)\nheld('PID 1 is there')"),
    forbidden("mount", 165, "ctypes.c_char_p(b'none')", "ctypes.c_char_p(b'/tmp')", "ctypes.c_char_p(b'tmpfs')", 0, 0),
    forbidden("unshare user", 272, CLONE_NEWUSER),
    forbidden("unshare mounts", 272, CLONE_NEWNS),
    Attack("clone into a user namespace", f"got, error = syscall(56, {CLONE_NEWUSER} | 17, 0, 0, 0, 0)\nif got == 0: os._exit(0)\nrefused('clone', got, error)"),
    Attack("clone3", "args = ctypes.create_string_buffer(88)\nstruct.pack_into('Q', args, 0, 0x10000000)\ngot, error = syscall(435, args, 88)\nif got == 0: os._exit(0)\nrefused('clone3', got, error)"),
    Attack("setns", "try:\n    fd = os.open('/proc/1/ns/mnt', os.O_RDONLY)\nexcept OSError as error:\n    held(str(error))\nrefused('setns', *syscall(308, fd, 0))"),
    Attack("chroot", "try:\n    os.chroot('/tmp')\n    escaped('chroot')\nexcept OSError as error:\n    held(str(error))\n"),
    forbidden("pivot_root", 155, "ctypes.c_char_p(b'/')", "ctypes.c_char_p(b'/tmp')"),
    forbidden("keyctl", 250, 0, -3, 0),
    forbidden("add_key", 248, "ctypes.c_char_p(b'user')", "ctypes.c_char_p(b'x')", "ctypes.c_char_p(b'y')", 1, -3),
    forbidden("bpf", 321, 0, 0, 0),
    forbidden("userfaultfd", 323, 0),
    forbidden("io_uring_setup", 425, 1, "ctypes.create_string_buffer(120)"),
    forbidden("open_by_handle_at", 304, -100, "ctypes.create_string_buffer(32)", 0),
    Attack("perf_event_open", "attr = ctypes.create_string_buffer(120)\nstruct.pack_into('II', attr, 0, 1, 120)\nrefused('perf_event_open', *syscall(298, attr, 0, -1, -1, 0))"),
    Attack("module", "refused('init_module', *syscall(175, ctypes.c_char_p(b'x'), 1, ctypes.c_char_p(b'')))"),
    Attack("reboot", "refused('reboot', *syscall(169, 0xfee1dead - (1 << 32), 672274793, 0, 0))"),
    Attack("set the clock", "import time\ntry:\n    time.clock_settime(time.CLOCK_REALTIME, time.time())\n    escaped('set')\nexcept OSError as error:\n    held(str(error))\n"),
    Attack("realtime priority", "try:\n    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))\n    escaped('SCHED_FIFO')\nexcept OSError as error:\n    held(str(error))\n"),
    *[
        Attack(
            f"{name} socket",
            f"try:\n    s = socket.socket({family}, {kind}, {protocol})\n    escaped('made one')\nexcept OSError as error:\n    held(str(error))\n",
        )
        for name, family, kind, protocol in (
            ("raw", 2, 3, 1), ("packet", 17, 3, 768), ("vsock", 40, 1, 0), ("alg", 38, 5, 0), ("xdp", 44, 3, 0), ("audit", 16, 3, 9),
        )
    ],
    Attack(
        "host loopback",
        "s = socket.socket(); s.settimeout(2)\ntry:\n    s.connect(('127.0.0.1', int(os.environ['HOST_PORT'])))\n    escaped('connected')\n"
        "except OSError as error:\n    held(str(error))\n",
        control=True,
    ),
    Attack(
        "metadata service",
        "s = socket.socket(); s.settimeout(2)\ntry:\n    s.connect(('169.254.169.254', 80))\n    escaped('connected')\nexcept OSError as error:\n    held(str(error))\n",
    ),
    Attack(
        "abstract socket of the host",
        "s = socket.socket(socket.AF_UNIX)\ntry:\n    s.connect('\\0' + os.environ['HOST_ABSTRACT'])\n    escaped('connected')\nexcept OSError as error:\n    held(str(error))\n",
        control=True,
    ),
    Attack("set-user-id by chmod", "open('/tmp/x', 'w').close()\ntry:\n    os.chmod('/tmp/x', 0o4755)\n    escaped('chmod') if os.stat('/tmp/x').st_mode & 0o4000 else held('the bit is not set')\nexcept OSError as error:\n    held(str(error))\n"),
    Attack("set-user-id by open", "try:\n    fd = os.open('/tmp/y', os.O_CREAT | os.O_WRONLY, 0o4755)\n    escaped('open') if os.fstat(fd).st_mode & 0o4000 else held('the bit is not set')\nexcept OSError as error:\n    held(str(error))\n"),
    Attack("core_pattern", write_file("/proc/sys/kernel/core_pattern")),
    Attack("sysrq", write_file("/proc/sysrq-trigger")),
    Attack("cgroup", "for root, _, names in os.walk('/sys/fs/cgroup'):\n    for n in names:\n        if n in ('cgroup.procs', 'memory.max', 'pids.max', 'memory.limit_in_bytes'):\n            try:\n                os.close(os.open(os.path.join(root, n), os.O_WRONLY)); escaped(os.path.join(root, n))\n            except OSError: pass\nheld('nothing to write')"),
    Attack("write to /usr", "try:\n    open('/usr/x', 'w'); escaped('/usr/x')\nexcept OSError as error:\n    held(str(error))\n"),
    Attack("write to /", "try:\n    open('/x', 'w'); escaped('/x')\nexcept OSError as error:\n    held(str(error))\n"),
    Attack("make a device", "import stat\ntry:\n    os.mknod('/tmp/mem', 0o600 | stat.S_IFCHR, os.makedev(1, 1)); escaped('mknod')\nexcept OSError as error:\n    held(str(error))\n"),
    Attack("overwrite the agent", "path = open('/proc/1/cmdline').read().split('\\0')[0]\ntry:\n    os.open(path, os.O_WRONLY); escaped(path)\nexcept OSError as error:\n    held(str(error))\n"),
    Attack("raise a hard limit", "import resource\ntry:\n    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)); escaped('raised')\nexcept (OSError, ValueError) as error:\n    held(str(error))\n"),
    Attack("capabilities", "lines = {l.split()[0]: l.split()[1] for l in open('/proc/self/status') if l.startswith(('CapEff', 'CapPrm', 'CapBnd', 'Seccomp:'))}\n"
           "held(str(lines)) if int(lines['CapEff:'], 16) == 0 and int(lines['CapPrm:'], 16) == 0 and libc.prctl(39, 0, 0, 0, 0) == 1 and lines['Seccomp:'] == '2' else escaped(str(lines))"),
    Attack("push a character into a terminal", "import fcntl, pty\nmaster, slave = pty.openpty()\ntry:\n    fcntl.ioctl(slave, 0x5412, b'x'); escaped('TIOCSTI')\nexcept OSError as error:\n    held(str(error))\n"),
    Attack("other processes of the host", "pids = [int(p) for p in os.listdir('/proc') if p.isdigit()]\nescaped(str(pids)) if len(pids) > 12 or max(pids) > 10000 else held(str(pids))", control=True),
    Attack("be a worse choice of the OOM killer than the agent",
           "for score in range(-1000, 1001):\n    try:\n        open('/proc/self/oom_score_adj', 'w').write(str(score)); break\n    except OSError: pass\n"
           "mine, agent = (int(open(f'/proc/{p}/oom_score_adj').read()) for p in ('self', 1))\n"
           "escaped(f'{mine} < {agent}') if mine < agent else held(f'{mine} >= {agent}')"),
]

# What must still work inside.
ALLOWED = [
    ("ptrace of a child", "pid = os.fork()\nif pid == 0:\n    syscall(101, 0, 0, 0, 0)\n    os.kill(os.getpid(), signal.SIGSTOP)\n    os._exit(0)\n_, status = os.waitpid(pid, os.WUNTRACED)\nprint('WORKS' if os.WIFSTOPPED(status) else status)\nos.kill(pid, signal.SIGKILL)"),
    ("personality", "got, error = syscall(135, 0xffffffff)\nprint('WORKS' if got >= 0 else error)"),
    ("mkfifo", "os.mkfifo('/tmp/fifo')\nprint('WORKS')"),
    ("loopback of the sandbox", "s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); c = socket.create_connection(s.getsockname())\nprint('WORKS')"),
    ("threads", "import threading\nt = threading.Thread(target=print, args=('WORKS',)); t.start(); t.join()"),
    ("multiprocessing", "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as p: print('WORKS' if p.map(abs, [-1, -2]) == [1, 2] else 'no')"),
    ("a Unix socket", "a, b = socket.socketpair(); a.send(b'x'); print('WORKS' if b.recv(1) == b'x' else 'no')"),
    ("/dev/null, urandom, shm", "open('/dev/null', 'w').write('x'); open('/dev/urandom', 'rb').read(4); open('/dev/shm/x', 'w').write('x'); print('WORKS')"),
]
