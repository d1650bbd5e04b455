#include "services/session/seccomp_policy.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <sstream>

namespace runbus::session {
namespace {

constexpr std::uint64_t kInt = 0xffffffff;

// Without conditions. Grouped by what they serve; what the kernel guards by capabilities that no
// process of a sandbox has (nice, mlock, chown …) may stand here.
constexpr const char* kAllowed = R"(
  read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek _llseek close close_range
  dup dup2 dup3 fcntl fcntl64 flock ftruncate ftruncate64 truncate truncate64 fallocate fadvise64 fadvise64_64
  fsync fdatasync sync sync_file_range syncfs readahead sendfile sendfile64 splice tee vmsplice copy_file_range
  pipe pipe2 poll ppoll select pselect6 _newselect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait
  epoll_wait_old epoll_pwait epoll_pwait2 eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime
  timerfd_gettime io_setup io_submit io_getevents io_pgetevents io_cancel io_destroy

  stat lstat fstat fstatat64 newfstatat stat64 lstat64 fstat64 statx statfs statfs64 fstatfs fstatfs64 ustat
  access faccessat faccessat2 getdents getdents64 readlink readlinkat getcwd chdir fchdir rename renameat
  renameat2 link linkat symlink symlinkat unlink unlinkat mkdir mkdirat rmdir umask utime utimes utimensat
  futimesat chown chown32 lchown lchown32 fchown fchown32 fchownat openat2
  getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr setxattr lsetxattr fsetxattr removexattr
  lremovexattr fremovexattr inotify_init inotify_init1 inotify_add_watch inotify_rm_watch

  brk mmap mmap2 munmap mremap mprotect madvise mincore msync mlock mlock2 mlockall munlock munlockall
  membarrier memfd_create pkey_alloc pkey_free pkey_mprotect get_mempolicy remap_file_pages cachestat

  execve execveat exit exit_group vfork fork wait4 waitid waitpid kill tkill tgkill pidfd_open
  pidfd_send_signal getpid getppid gettid getpgid getpgrp setpgid getsid setsid set_tid_address
  set_robust_list get_robust_list futex futex_waitv futex_wait futex_wake futex_requeue rseq arch_prctl prctl
  set_thread_area get_thread_area rt_sigaction rt_sigprocmask rt_sigpending rt_sigqueueinfo rt_sigreturn
  rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sigaction sigprocmask sigreturn sigaltstack signal pause
  restart_syscall alarm getitimer setitimer nanosleep clock_nanosleep sched_yield sched_getaffinity
  sched_setaffinity sched_getparam sched_setparam sched_getscheduler sched_setscheduler sched_getattr
  sched_setattr sched_get_priority_max sched_get_priority_min sched_rr_get_interval getpriority setpriority
  ioprio_get ioprio_set getcpu getrandom seccomp landlock_create_ruleset landlock_add_rule
  landlock_restrict_self ptrace process_vm_readv process_vm_writev

  getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32 getresgid
  getresgid32 getgroups getgroups32 setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32
  setresuid setresuid32 setresgid setresgid32 setfsuid setfsuid32 setfsgid setfsgid32 setgroups setgroups32
  capget capset getrlimit ugetrlimit setrlimit prlimit64 getrusage times sysinfo uname

  time gettimeofday clock_gettime clock_getres clock_gettime64 clock_getres_time64 timer_create timer_delete
  timer_settime timer_gettime timer_getoverrun

  socketpair bind listen accept accept4 connect getsockname getpeername getsockopt setsockopt shutdown
  send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg
  shmget shmat shmdt shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl ipc
  mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
)";

// Refused by name, so that a program learns "not permitted" rather than "no such call".
constexpr const char* kDenied = R"(
  mount umount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr
  unshare setns keyctl add_key request_key bpf perf_event_open userfaultfd open_by_handle_at
  name_to_handle_at pidfd_getfd kcmp process_madvise fanotify_init fanotify_mark quotactl quotactl_fd
  swapon swapoff acct reboot kexec_load kexec_file_load init_module finit_module delete_module syslog vhangup
  settimeofday clock_settime clock_settime64 clock_adjtime adjtimex stime sethostname setdomainname iopl ioperm
  lookup_dcookie move_pages migrate_pages mbind set_mempolicy nfsservctl uselib
)";

std::vector<std::string> words(const char* text) {
  std::istringstream stream(text);
  std::vector<std::string> result;
  for (std::string word; stream >> word;) {
    result.push_back(word);
  }
  return result;
}

void allow(std::vector<SeccompRule>& rules, const std::string& call,
           std::vector<ArgumentTest> tests) {
  rules.push_back({{call}, true, std::move(tests)});
}

// Allows `call` where argument `index`, of 32 bits, is none of `values`: one rule for each subtree
// of the binary tree of numbers that holds none of them. A plain "not equal" compares 64 bits while
// the kernel looks at 32, and was got around so (CVE-2019-10063).
void allow_except(std::vector<SeccompRule>& rules, const std::string& call, unsigned index,
                  const std::vector<std::uint64_t>& values, unsigned bit = 32,
                  std::uint64_t mask = 0, std::uint64_t prefix = 0) {
  if (values.empty()) {
    allow(rules, call, {{index, mask, prefix}});
    return;
  }
  if (bit == 0) {
    return;
  }
  const std::uint64_t top = 1ULL << (bit - 1);
  for (const std::uint64_t wanted : {std::uint64_t{0}, top}) {
    std::vector<std::uint64_t> below;
    for (const std::uint64_t value : values) {
      if ((value & top) == wanted) {
        below.push_back(value);
      }
    }
    allow_except(rules, call, index, below, bit - 1, mask | top, prefix | wanted);
  }
}

// Allows `call` where no bit of `bits` is set in the argument, and refuses with EPERM where one is.
void allow_without(std::vector<SeccompRule>& rules, const std::string& call, unsigned index,
                   std::uint64_t bits) {
  allow(rules, call, {{index, bits, 0}});
  for (std::uint64_t bit = 1; bit <= bits; bit <<= 1) {
    if ((bits & bit) != 0) {
      rules.push_back({{call}, false, {{index, bit, bit}}});
    }
  }
}

void add_sockets(std::vector<SeccompRule>& rules) {
  constexpr std::uint64_t kTypeMask = 0xf;  // the rest are SOCK_CLOEXEC and SOCK_NONBLOCK
  allow(rules, "socket", {{0, kInt, AF_UNIX}});
  for (const std::uint64_t family : {std::uint64_t{AF_INET}, std::uint64_t{AF_INET6}}) {
    for (const std::uint64_t type : {std::uint64_t{SOCK_STREAM}, std::uint64_t{SOCK_DGRAM}}) {
      allow(rules, "socket", {{0, kInt, family}, {1, kTypeMask, type}});
    }
  }
  // getaddrinfo and getifaddrs ask the kernel for its addresses.
  allow(rules, "socket", {{0, kInt, AF_NETLINK}, {2, kInt, NETLINK_ROUTE}});
}

void add_files(std::vector<SeccompRule>& rules) {
  constexpr std::uint64_t kSetId = S_ISUID | S_ISGID;
  allow_without(rules, "chmod", 1, kSetId);
  allow_without(rules, "fchmod", 1, kSetId);
  allow_without(rules, "fchmodat", 2, kSetId);
  allow_without(rules, "fchmodat2", 2, kSetId);
  allow_without(rules, "creat", 1, kSetId);
  // Without O_CREAT (and O_TMPFILE, whose own bit this is) the mode is whatever the register held.
  constexpr std::uint64_t kCreates = O_CREAT | (O_TMPFILE & ~O_DIRECTORY);
  allow(rules, "open", {{1, kCreates, 0}});
  allow(rules, "open", {{2, kSetId, 0}});
  allow(rules, "openat", {{2, kCreates, 0}});
  allow(rules, "openat", {{3, kSetId, 0}});
  for (const mode_t type : {mode_t{0}, mode_t{S_IFIFO}, mode_t{S_IFREG}, mode_t{S_IFSOCK}}) {
    allow(rules, "mknod", {{1, S_IFMT | kSetId, type}});
    allow(rules, "mknodat", {{2, S_IFMT | kSetId, type}});
  }
}

std::vector<SeccompRule> make_rules() {
  std::vector<SeccompRule> rules;
  rules.push_back({words(kAllowed), true, {}});
  rules.push_back({words(kDenied), false, {}});
  // clone3 is left to ENOSYS: its flags are behind a pointer, and every libc falls back to clone.
  allow_without(rules, "clone", 0,
                CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
                    CLONE_NEWPID | CLONE_NEWNET);
  add_sockets(rules);
  add_files(rules);
  allow_except(rules, "ioctl", 1, {TIOCSTI, TIOCLINUX});
  // PER_LINUX and PER_LINUX32, each also with UNAME26 or (gdb) ADDR_NO_RANDOMIZE; 0xffffffff asks.
  for (const std::uint64_t persona :
       {0x0ULL, 0x8ULL, 0x20000ULL, 0x20008ULL, 0x40000ULL, 0x40008ULL, kInt + 0ULL}) {
    allow(rules, "personality", {{0, kInt, persona}});
  }
  return rules;
}

}  // namespace

const std::vector<SeccompRule>& seccomp_rules() {
  static const std::vector<SeccompRule> rules = make_rules();
  return rules;
}

}  // namespace runbus::session
