#include "services/execution/toolchain.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/post.hpp>
#include <cctype>
#include <cerrno>
#include <chrono>

#include "proto/support/log.h"
#include "proto/support/unique_fd.h"

namespace runbus::execution {
namespace {

namespace asio = boost::asio;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kThreads = 2;
constexpr std::chrono::seconds kProbeTime{10};
constexpr std::size_t kMaxOutput = 65'536;

// The tool's path on this machine; empty when no directory of kToolPath has it.
std::string locate(const std::string& name, const std::string& root) {
  std::string_view path = kToolPath;
  while (!path.empty()) {
    const std::size_t colon = std::min(path.find(':'), path.size());
    std::string candidate = root + std::string(path.substr(0, colon)) + "/" + name;
    if (::access(candidate.c_str(), X_OK) == 0) {
      return candidate;
    }
    path.remove_prefix(std::min(colon + 1, path.size()));
  }
  return {};
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (std::string& text : strings) {
    result.push_back(text.data());
  }
  result.push_back(nullptr);
  return result;
}

// Starts the program with its output in a pipe, as the leader of a process group.
pid_t start(const std::string& file, std::vector<std::string> argv, int output) {
  std::vector<std::string> environment = {"PATH=" + std::string(kToolPath), "LANG=C.UTF-8",
                                          "HOME=/nonexistent"};
  posix_spawn_file_actions_t actions{};
  posix_spawnattr_t attributes{};
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, output, 1);
  posix_spawn_file_actions_adddup2(&actions, output, 2);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
  pid_t pid = -1;
  if (::posix_spawn(&pid, file.c_str(), &actions, &attributes, pointers(argv).data(),
                    pointers(environment).data()) != 0) {
    pid = -1;
  }
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  return pid;
}

// Reads until everybody has closed the pipe; false when time or size ran out.
bool read_all(int fd, std::string& output) {
  const auto end = Clock::now() + kProbeTime;
  std::array<char, 4096> buffer;
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    pollfd entry{fd, POLLIN, 0};
    if (left <= 0 || ::poll(&entry, 1, static_cast<int>(left)) <= 0) {
      return false;
    }
    const ssize_t size = ::read(fd, buffer.data(), buffer.size());
    if (size <= 0) {
      return size == 0;
    }
    output.append(buffer.data(), static_cast<std::size_t>(size));
    if (output.size() > kMaxOutput) {
      return false;
    }
  }
}

// A program that has closed its output may still run on.
bool wait_for_exit(pid_t pid) {
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  pollfd entry{process.get(), POLLIN, 0};
  return process &&
         ::poll(&entry, 1, static_cast<int>(std::chrono::milliseconds(kProbeTime).count())) > 0;
}

}  // namespace

bool probe_tool(const std::vector<std::string>& argv, std::string& output) {
  const std::string file = locate(argv.front(), {});
  std::array<int, 2> pipe{};
  if (file.empty() || ::pipe2(pipe.data(), O_CLOEXEC) != 0) {
    return false;
  }
  const UniqueFd reader(pipe[0]);
  UniqueFd writer(pipe[1]);
  const pid_t pid = start(file, argv, writer.get());
  writer.reset();
  if (pid < 0) {
    return false;
  }
  const bool ended = read_all(reader.get(), output) && wait_for_exit(pid);
  // Before it is reaped, while the group's number is still its own.
  ::kill(-pid, SIGKILL);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return ended && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

std::string find_version(std::string_view text) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  for (std::size_t begin = 0; begin < text.size(); ++begin) {
    if (!is_digit(text[begin])) {
      continue;
    }
    std::size_t end = begin;
    bool dot = false;
    while (end < text.size() &&
           (is_digit(text[end]) ||
            (text[end] == '.' && end + 1 < text.size() && is_digit(text[end + 1])))) {
      dot = dot || text[end] == '.';
      ++end;
    }
    if (dot) {
      return std::string(text.substr(begin, std::min<std::size_t>(end - begin, 32)));
    }
    begin = end;
  }
  return {};
}

Toolchain::Toolchain(asio::io_context& io, std::vector<Language> table, std::string rootfs)
    : io_(io),
      table_(std::move(table)),
      works_(table_.size()),
      open_(table_.size()),
      pool_(kThreads) {
  for (std::size_t row = 0; row < table_.size(); ++row) {
    asio::post(pool_, [this, row, rootfs, probe = table_[row].probe, alive = std::weak_ptr(alive_),
                       guard = asio::make_work_guard(io_)] {
      std::string output;
      bool works = false;
      if (rootfs.empty()) {
        works = probe_tool(probe, output);
      } else {
        works = !locate(probe.front(), rootfs).empty();
      }
      asio::post(io_, [this, row, works, alive, version = find_version(output)] {
        if (alive.lock()) {
          probed(row, works, version);
        }
      });
    });
  }
}

Toolchain::~Toolchain() {
  alive_.reset();
  pool_.stop();
  pool_.join();
}

void Toolchain::probed(std::size_t row, bool works, std::string version) {
  works_[row] = works;
  table_[row].version = std::move(version);
  if (--open_ > 0) {
    return;
  }
  for (std::size_t index = 0; index < table_.size(); ++index) {
    const Language& language = table_[index];
    const bool taken = std::any_of(available_.begin(), available_.end(),
                                   [&](const auto& other) { return other.name == language.name; });
    if (works_[index] && !taken) {
      available_.push_back(language);
    }
  }
  spdlog::info("{} languages work here", available_.size());
  for (const auto& callback : std::exchange(waiting_, {})) {
    callback();
  }
}

void Toolchain::when_known(std::function<void()> callback) {
  if (open_ == 0) {
    asio::post(io_, std::move(callback));
  } else {
    waiting_.push_back(std::move(callback));
  }
}

const Language* Toolchain::find(std::string_view name) const {
  std::string wanted(name);
  std::transform(wanted.begin(), wanted.end(), wanted.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const Language& language : available_) {
    if (language.name == wanted || std::find(language.aliases.begin(), language.aliases.end(),
                                             wanted) != language.aliases.end()) {
      return &language;
    }
  }
  return nullptr;
}

}  // namespace runbus::execution
