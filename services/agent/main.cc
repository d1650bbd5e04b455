#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <string>

#include "services/agent/agent.h"

namespace {

using runbus::UniqueFd;

constexpr int kDefaultListenFd = 3;
constexpr char kUsage[] =
    "usage: runbus-agent [--listen-fd N] [--log-dir-fd N] [--log-space BYTES] [--workspace DIR] "
    "[--stdio] [--version]\n";

struct Flags {
  std::optional<int> listen_fd;
  std::optional<int> log_dir_fd;
  std::optional<std::uint64_t> log_space;
  std::string workspace = "/workspace";
  bool stdio = false;
};

std::optional<int> parse_fd(const char* text) {
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (end == text || *end != '\0' || value < 0 || value > 1'000'000) {
    return std::nullopt;
  }
  return static_cast<int>(value);
}

std::optional<std::uint64_t> parse_bytes(const char* text) {
  char* end = nullptr;
  const std::uint64_t value = std::strtoull(text, &end, 10);
  return end == text || *end != '\0' || value == 0 ? std::nullopt : std::optional(value);
}

// Empty when the command line makes no sense.
std::optional<Flags> parse_flags(int argc, char** argv) {
  Flags flags;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--stdio") {
      flags.stdio = true;
      continue;
    }
    if (i + 1 == argc) {
      return std::nullopt;
    }
    const char* const value = argv[++i];
    if (name == "--workspace") {
      flags.workspace = value;
    } else if (name == "--log-space") {
      flags.log_space = parse_bytes(value);
      if (!flags.log_space) {
        return std::nullopt;
      }
    } else if (name == "--listen-fd") {
      flags.listen_fd = parse_fd(value);
      if (!flags.listen_fd) {
        return std::nullopt;
      }
    } else if (name == "--log-dir-fd") {
      flags.log_dir_fd = parse_fd(value);
      if (!flags.log_dir_fd) {
        return std::nullopt;
      }
    } else {
      return std::nullopt;
    }
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
  ::umask(022);
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
}

// What is wrong, or empty.
std::string take_descriptors(const Flags& flags, runbus::agent::Agent::Options& options) {
  const int listen_fd = flags.listen_fd.value_or(kDefaultListenFd);
  if (is_listening(listen_fd)) {
    if (!make_private(listen_fd, true)) {
      return "cannot use descriptor " + std::to_string(listen_fd);
    }
    options.listen.reset(listen_fd);
  } else if (flags.listen_fd || !flags.stdio) {
    return "descriptor " + std::to_string(listen_fd) +
           " is no listening socket (--listen-fd N names one, --stdio does without)";
  }
  if (flags.log_dir_fd) {
    if (!is_directory(*flags.log_dir_fd) || !make_private(*flags.log_dir_fd, false)) {
      return "--log-dir-fd " + std::to_string(*flags.log_dir_fd) + " is no directory";
    }
    options.log_directory.reset(*flags.log_dir_fd);
  }
  return "";
}

int run(const Flags& flags) {
  prepare_process();
  runbus::agent::Agent::Options options;
  options.workspace = flags.workspace;
  options.log_space = flags.log_space.value_or(options.log_space);
  if (const std::string wrong = take_descriptors(flags, options); !wrong.empty()) {
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
