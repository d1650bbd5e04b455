// A stand-in for runbus-agent, and the attacker, in one static program. As the agent it runs each
// line that a connection on descriptor 3 sends by the shell and sends back what that prints and
// "exit N". With "attack NAME" it tries what a sandbox must not allow, and tells.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace {

// Denied means refused before the kernel looked at anything: every attack is aimed at nothing, so
// that a call that is let through fails harmlessly in another way.
void report(const char* name, long result) {
  const bool denied = result < 0 && (errno == EPERM || errno == ENOSYS);
  std::printf("%s %s\n", denied ? "denied" : "ALLOWED", name);
}

void attack_calls() {
  std::setvbuf(stdout, nullptr, _IONBF, 0);
  report("mount", ::mount("none", "/nonexistent", "tmpfs", 0, nullptr));
  report("umount", ::umount2("/nonexistent", 0));
  if (const pid_t apart = ::fork(); apart == 0) {
    report("unshare", ::unshare(CLONE_NEWUSER));
    std::fflush(stdout);
    ::_exit(0);
  } else {
    ::waitpid(apart, nullptr, 0);
  }
  const long child = ::syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, nullptr, nullptr, nullptr, 0);
  if (child == 0) {
    ::_exit(0);
  }
  report("clone", child);
  report("clone3", ::syscall(SYS_clone3, nullptr, 0));
  report("setns", ::setns(-1, 0));
  report("keyctl", ::syscall(SYS_keyctl, 0, -3, 0));
  report("bpf", ::syscall(SYS_bpf, 0, nullptr, 0));
  report("perf", ::syscall(SYS_perf_event_open, nullptr, 0, -1, -1, 0));
  report("userfaultfd", ::syscall(SYS_userfaultfd, -1));
  report("io_uring", ::syscall(SYS_io_uring_setup, 0, nullptr));
  report("open_by_handle_at", ::syscall(SYS_open_by_handle_at, -1, nullptr, 0));
  report("pidfd_getfd", ::syscall(SYS_pidfd_getfd, -1, 0, 0));
  report("chroot", ::chroot("/nonexistent"));
  report("pivot_root", ::syscall(SYS_pivot_root, "/nonexistent", "/nonexistent"));
  report("packet socket", ::socket(AF_PACKET, SOCK_RAW, 0));
  report("raw socket", ::socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
  report("alg socket", ::socket(AF_ALG, SOCK_SEQPACKET, 0));
  report("vsock socket", ::socket(AF_VSOCK, SOCK_STREAM, 0));
  report("audit socket", ::socket(AF_NETLINK, SOCK_RAW, 9));
  report("TIOCSTI", ::ioctl(-1, TIOCSTI, nullptr));
  report("TIOCSTI with high bits", ::syscall(SYS_ioctl, -1, 0x100000000UL | TIOCSTI, nullptr));
  report("chmod suid", ::chmod("/nonexistent", 04755));
  report("open suid", ::open("/nonexistent/x", O_CREAT | O_WRONLY, 04755));
  report("device node", ::mknod("/nonexistent/x", S_IFCHR | 0666, 0));
}

void attack_foreign() {
#ifdef __x86_64__
  const char* names[] = {"int80", "x32"};
  for (int which = 0; which < 2; ++which) {
    const pid_t child = ::fork();
    if (child == 0) {
      if (which == 0) {
        int result = 20;  // getpid of i386
        asm volatile("int $0x80" : "+a"(result) : : "memory");
      } else {
        ::syscall(0x40000000L | SYS_getpid);
      }
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    // SIGSYS by the filter, or SIGSEGV by a kernel without such calls.
    std::printf("%s %s\n", WIFSIGNALED(status) ? "denied" : "ALLOWED", names[which]);
  }
#endif
}

void must(const char* name, bool works) { std::printf("%s %s\n", works ? "ok" : "BROKEN", name); }

bool traces() {
  const pid_t child = ::fork();
  if (child == 0) {
    const bool ready =
        ::personality(ADDR_NO_RANDOMIZE) >= 0 && ::ptrace(PTRACE_TRACEME, 0, 0, 0) == 0;
    ::_exit(ready && ::raise(SIGSTOP) == 0 ? 7 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  const bool stopped = WIFSTOPPED(status);
  ::ptrace(PTRACE_CONT, child, 0, 0);
  ::waitpid(child, &status, 0);
  return stopped && WIFEXITED(status) && WEXITSTATUS(status) == 7;
}

bool connects_to_itself() {
  const int server = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  return ::bind(server, generic, size) == 0 && ::listen(server, 1) == 0 &&
         ::getsockname(server, generic, &size) == 0 &&
         ::connect(::socket(AF_INET, SOCK_STREAM, 0), generic, size) == 0;
}

void check_useful() {
  must("ptrace", traces());
  must("fifo", ::mkfifo("/tmp/fifo", 0600) == 0);
  must("pty", ::posix_openpt(O_RDWR | O_NOCTTY) >= 0);
  must("loopback", connects_to_itself());
  must("shm", ::open("/dev/shm/x", O_CREAT | O_RDWR, 0600) >= 0);
  must("tmp", ::open("/tmp/x", O_CREAT | O_RDWR, 0600) >= 0);
  must("workspace", ::open("/workspace/x", O_CREAT | O_RDWR, 0600) >= 0);
  must("null", ::open("/dev/null", O_RDWR) >= 0);
  must("urandom", ::open("/dev/urandom", O_RDONLY) >= 0);
}

void eat_memory(std::size_t megabytes) {
  for (std::size_t eaten = 0; eaten < megabytes; ++eaten) {
    auto* block = static_cast<char*>(std::malloc(1U << 20));
    std::memset(block, 1, 1U << 20);
  }
  std::printf("ate it all\n");
}

void bomb(int limit) {
  std::vector<pid_t> children;
  while (static_cast<int>(children.size()) < limit) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::pause();
      ::_exit(0);
    }
    if (child < 0) {
      break;
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
  }
  std::printf("forked %zu\n", children.size());
}

int attack(const std::string& name, const char* argument) {
  const int amount = argument == nullptr ? 0 : std::atoi(argument);
  if (name == "calls") {
    attack_calls();
    attack_foreign();
  } else if (name == "useful") {
    check_useful();
  } else if (name == "memory") {
    eat_memory(static_cast<std::size_t>(amount));
  } else if (name == "bomb") {
    bomb(amount);
  } else {
    return 2;
  }
  return 0;
}

std::string read_line(int fd) {
  std::string line;
  char next = 0;
  while (::read(fd, &next, 1) == 1 && next != '\n') {
    line += next;
  }
  return line;
}

void serve(int connection) {
  const std::string line = read_line(connection);
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_DUMPABLE, 1);  // or its own files in /proc would not be its own
    const int adjust = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    (void)!::write(adjust, "1000", 4);
    ::dup2(connection, 1);
    ::dup2(connection, 2);
    ::execl("/bin/sh", "sh", "-c", line.c_str(), nullptr);
    ::_exit(127);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  ::dprintf(connection, "exit %d\n",
            WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc >= 3 && std::strcmp(argv[1], "attack") == 0) {
    return attack(argv[2], argv[3]);
  }
  // As the true agent: what must not be inherited, and not be looked into.
  for (const int fd : {3, 4}) {
    ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
  ::prctl(PR_SET_DUMPABLE, 0);
  for (;;) {
    const int connection = ::accept4(3, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection >= 0) {
      // Each in a process of its own: a run that is stuck does not hold up the next.
      if (::fork() == 0) {
        serve(connection);
        ::_exit(0);
      }
      ::close(connection);
    }
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
  }
}
