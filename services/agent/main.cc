#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <string>
#include <utility>

#include "services/agent/agent.h"
#include "services/agent/identity.h"

namespace {

using runbus::UniqueFd;

constexpr int kDefaultListenFd = 3;
constexpr int kBacklog = 64;
constexpr char kUsage[] =
    "usage: runbus-agent [--listen-fd N | --listen-path PATH] [--log-dir-fd N | --log-dir DIR]\n"
    "                    [--log-space BYTES] [--workspace DIR] [--users AGENT:PROGRAMS]\n"
    "                    [--processes COUNT --process-group DIR] [--seccomp FILE] [--stdio]\n"
    "                    [--version]\n";

struct Flags {
  std::optional<int> listen_fd;
  std::string listen_path;
  std::optional<int> log_dir_fd;
  std::string log_dir;
  std::optional<std::uint64_t> log_space;
  std::string workspace = "/workspace";
  std::optional<std::pair<uid_t, uid_t>> users;  // the agent's own and the programs'
  std::optional<std::uint64_t> processes;
  std::string process_group;
  std::string seccomp;
  bool stdio = false;
};

std::optional<std::uint64_t> parse_number(const std::string& text, std::uint64_t most) {
  if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos) {
    return std::nullopt;
  }
  errno = 0;
  const std::uint64_t value = std::strtoull(text.c_str(), nullptr, 10);
  return errno != 0 || value > most ? std::nullopt : std::optional(value);
}

std::optional<std::uint64_t> parse_positive(const std::string& text) {
  const auto value = parse_number(text, UINT64_MAX);
  return value == 0 ? std::nullopt : value;
}

std::optional<int> parse_fd(const std::string& text) { return parse_number(text, 1'000'000); }

std::optional<std::pair<uid_t, uid_t>> parse_users(const std::string& text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string::npos) {
    return std::nullopt;
  }
  const auto agent = parse_number(text.substr(0, colon), UINT32_MAX - 1);
  const auto programs = parse_number(text.substr(colon + 1), UINT32_MAX - 1);
  return agent && programs ? std::optional(std::pair<uid_t, uid_t>(*agent, *programs))
                           : std::nullopt;
}

// False when there is no such flag, or not with such a value.
bool take_flag(const std::string& name, const std::string& value, Flags& flags) {
  if (name == "--workspace") {
    flags.workspace = value;
  } else if (name == "--listen-path") {
    flags.listen_path = value;
  } else if (name == "--process-group") {
    flags.process_group = value;
  } else if (name == "--seccomp") {
    flags.seccomp = value;
  } else if (name == "--log-dir") {
    flags.log_dir = value;
  } else if (name == "--log-space") {
    return (flags.log_space = parse_positive(value)).has_value();
  } else if (name == "--listen-fd") {
    return (flags.listen_fd = parse_fd(value)).has_value();
  } else if (name == "--log-dir-fd") {
    return (flags.log_dir_fd = parse_fd(value)).has_value();
  } else if (name == "--users") {
    return (flags.users = parse_users(value)).has_value();
  } else if (name == "--processes") {
    return (flags.processes = parse_positive(value)).has_value();
  } else {
    return false;
  }
  return true;
}

// Empty when the command line makes no sense.
std::optional<Flags> parse_flags(int argc, char** argv) {
  Flags flags;
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--stdio") {
      flags.stdio = true;
    } else if (i + 1 == argc || !take_flag(argv[i], argv[i + 1], flags)) {
      return std::nullopt;
    } else {
      ++i;
    }
  }
  if ((flags.listen_fd && !flags.listen_path.empty()) ||
      (flags.log_dir_fd && !flags.log_dir.empty()) ||
      flags.processes.has_value() == flags.process_group.empty()) {
    return std::nullopt;
  }
  return flags;
}

bool make_private(int fd, bool nonblocking) {
  if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
    return false;
  }
  const int status = ::fcntl(fd, F_GETFL);
  return !nonblocking || ::fcntl(fd, F_SETFL, status | O_NONBLOCK) == 0;
}

bool is_listening(int fd) {
  int listening = 0;
  socklen_t size = sizeof(listening);
  return ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 && listening != 0;
}

bool is_directory(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 && S_ISDIR(status.st_mode);
}

// As far from the OOM killer's choice as the machine lets us: programs, which are offered to it
// first, can make themselves equal to us, never less. Only while dumpable a process owns its file
// in /proc.
void withdraw_from_oom_killer() {
  const UniqueFd file(::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  if (!file) {
    return;
  }
  // A score below the floor that we inherited is refused; the floor is found by halving.
  for (int refused = -1001, lowest = 0; lowest - refused > 1;) {
    const int score = (refused + lowest - 1) / 2;
    const std::string text = std::to_string(score);
    (::pwrite(file.get(), text.data(), text.size(), 0) > 0 ? lowest : refused) = score;
  }
}

// Woken by a program that prints or ends, we are to run before it goes on: a kernel that knows
// slices (Linux 6.12) lets the shorter one preempt. Programs do not inherit it.
void prefer_short_turns() {
  struct {
    std::uint32_t size = 48;
    std::uint32_t policy = 0;
    std::uint64_t flags = 1;  // SCHED_FLAG_RESET_ON_FORK
    std::int32_t nice = ::getpriority(PRIO_PROCESS, 0);
    std::uint32_t priority = 0;
    std::uint64_t runtime = 100'000;  // nanoseconds
    std::uint64_t deadline = 0;
    std::uint64_t period = 0;
  } attributes;
  ::syscall(SYS_sched_setattr, 0, &attributes, 0);
}

void prepare_process() {
  withdraw_from_oom_killer();
  // Programs run with our uid: they may not read our memory or descriptors.
  ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  // PID 1 gets orphans anyway.
  if (::getpid() != 1) {
    ::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  }
  // A limit that a program sets on us must come as an error, not as our end.
  for (const int signal : {SIGPIPE, SIGXFSZ, SIGXCPU}) {
    ::signal(signal, SIG_IGN);
  }
  prefer_short_turns();
  ::umask(022);
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
}

std::string with_reason(const std::string& what) { return what + ": " + std::strerror(errno); }

// What is wrong, or empty. `path`.ready is there when connections are taken.
std::string listen_at(const std::string& path, UniqueFd& listen) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return "--listen-path is over 107 bytes";
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  listen.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listen || ::bind(listen.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listen.get(), kBacklog) != 0) {
    return with_reason("cannot listen at " + path);
  }
  const UniqueFd ready(
      ::open((path + ".ready").c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  return ready ? "" : with_reason("cannot make " + path + ".ready");
}

std::string take_listener(const Flags& flags, UniqueFd& listen) {
  if (!flags.listen_path.empty()) {
    return listen_at(flags.listen_path, listen);
  }
  const int listen_fd = flags.listen_fd.value_or(kDefaultListenFd);
  if (is_listening(listen_fd)) {
    if (!make_private(listen_fd, true)) {
      return "cannot use descriptor " + std::to_string(listen_fd);
    }
    listen.reset(listen_fd);
  } else if (flags.listen_fd || !flags.stdio) {
    return "descriptor " + std::to_string(listen_fd) +
           " is no listening socket (--listen-fd N names one, --stdio does without)";
  }
  return "";
}

std::string take_log_directory(const Flags& flags, UniqueFd& directory) {
  if (!flags.log_dir.empty()) {
    directory.reset(::open(flags.log_dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    return directory ? "" : with_reason("--log-dir " + flags.log_dir);
  }
  if (flags.log_dir_fd) {
    if (!is_directory(*flags.log_dir_fd) || !make_private(*flags.log_dir_fd, false)) {
      return "--log-dir-fd " + std::to_string(*flags.log_dir_fd) + " is no directory";
    }
    directory.reset(*flags.log_dir_fd);
  }
  return "";
}

// What is wrong, or empty.
std::string take_surroundings(const Flags& flags, runbus::agent::Agent::Options& options) {
  std::string wrong;
  if (flags.processes) {
    wrong = runbus::agent::bound_processes(*flags.processes, flags.process_group);
  }
  if (wrong.empty() && flags.users) {
    wrong = runbus::agent::separate_users(flags.users->first, flags.users->second);
  }
  if (wrong.empty() && !flags.seccomp.empty()) {
    wrong = runbus::agent::restrict_system_calls(flags.seccomp);
  }
  const runbus::agent::AsAgent owner;
  if (wrong.empty()) {
    wrong = take_listener(flags, options.listen);
  }
  return wrong.empty() ? take_log_directory(flags, options.log_directory) : wrong;
}

int run(const Flags& flags) {
  prepare_process();
  runbus::agent::Agent::Options options;
  options.workspace = flags.workspace;
  options.log_space = flags.log_space.value_or(options.log_space);
  if (const std::string wrong = take_surroundings(flags, options); !wrong.empty()) {
    std::fprintf(stderr, "runbus-agent: %s\n", wrong.c_str());
    return 2;
  }
  runbus::agent::Agent agent(std::move(options));
  if (flags.stdio) {
    UniqueFd input(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3));
    UniqueFd output(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
    if (!input || !output || !make_private(input.get(), true) ||
        !make_private(output.get(), true)) {
      std::fprintf(stderr, "runbus-agent: --stdio: standard input or output is closed\n");
      return 2;
    }
    agent.serve(std::move(input), std::move(output));
  }
  return agent.run();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string(argv[1]) == "--version") {
    std::puts("runbus-agent " RUNBUS_VERSION);
    return 0;
  }
  const std::optional<Flags> flags = parse_flags(argc, argv);
  if (!flags) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  try {
    return run(*flags);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "runbus-agent: %s\n", error.what());
    return 1;
  }
}
