#include "tests/unit/agent/agent_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <stdexcept>

namespace runbus::agent_test {
namespace {

using Clock = std::chrono::steady_clock;

std::string make_directory() {
  std::string path = (std::filesystem::temp_directory_path() / "runbus-agent-XXXXXX").string();
  if (::mkdtemp(path.data()) == nullptr) {
    throw std::runtime_error("mkdtemp failed");
  }
  return path;
}

UniqueFd listen_on(const std::string& path) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      ::listen(fd.get(), 128) != 0) {
    throw std::runtime_error("cannot listen on " + path);
  }
  return fd;
}

// In a child: becomes PID 1 of new PID and mount namespaces. The calling process waits and exits as
// it does.
bool enter_pid_namespace() {
  const int user = ::geteuid() == 0 ? 0 : CLONE_NEWUSER;
  if (::unshare(user | CLONE_NEWPID | CLONE_NEWNS) != 0) {
    return false;
  }
  const pid_t init = ::fork();
  if (init < 0) {
    return false;
  }
  if (init > 0) {
    int status = 0;
    ::waitpid(init, &status, 0);
    ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  }
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  return ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         ::mount("proc", "/proc", "proc", 0, nullptr) == 0;
}

void run_agent(const AgentProcess::Options& options, const std::string& workspace, int listen_fd,
               int log_fd) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (options.pid_namespace && !enter_pid_namespace()) {
    ::_exit(120);
  }
  std::vector<std::string> arguments = {"runbus-agent", "--workspace", workspace};
  const int listen_high = ::fcntl(listen_fd, F_DUPFD, 10);
  ::dup2(listen_high, 3);
  ::close(listen_high);
  if (options.log_directory) {
    ::dup2(log_fd, 4);
    arguments.insert(arguments.end(), {"--log-dir-fd", "4"});
  }
  arguments.insert(arguments.end(), options.arguments.begin(), options.arguments.end());
  std::vector<char*> pointers;
  for (std::string& argument : arguments) {
    pointers.push_back(argument.data());
  }
  pointers.push_back(nullptr);
  ::execv(RUNBUS_AGENT, pointers.data());
  ::_exit(121);
}

}  // namespace

bool eventually(const std::function<bool()>& condition) {
  const auto until = Clock::now() + std::chrono::seconds(kPatienceSeconds);
  while (!condition()) {
    if (Clock::now() > until) {
      return false;
    }
    ::poll(nullptr, 0, 5);
  }
  return true;
}

AgentProcess::AgentProcess(const Options& options)
    : directory_(make_directory()),
      workspace_(directory_ + "/workspace"),
      socket_path_(directory_ + "/agent.sock") {
  std::filesystem::create_directory(workspace_);
  const std::string logs = directory_ + "/logs";
  std::filesystem::create_directory(logs);
  const UniqueFd listen = listen_on(socket_path_);
  // Above the numbers that the agent is given, so that placing one does not close the other.
  const UniqueFd low(::open(logs.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const UniqueFd log(::fcntl(low.get(), F_DUPFD_CLOEXEC, 20));
  pid_ = ::fork();
  if (pid_ == 0) {
    run_agent(options, workspace_, listen.get(), log.get());
  }
}

AgentProcess::~AgentProcess() {
  if (pid_ > 0) {
    ::kill(pid_, SIGTERM);
    if (!wait_for_exit_code()) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

std::optional<int> AgentProcess::wait_for_exit_code() {
  int status = 0;
  if (!eventually([&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; })) {
    return std::nullopt;
  }
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

bool can_make_pid_namespace() {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::_exit(enter_pid_namespace() ? 0 : 1);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool has_process_with_argument(const std::string& argument) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    std::ifstream file(entry.path() / "cmdline", std::ios::binary);
    std::string word;
    while (std::getline(file, word, '\0')) {
      if (word == argument) {
        return true;
      }
    }
  }
  return false;
}

std::string unique_argument(const std::string& prefix) {
  static std::mt19937 random{std::random_device{}()};
  return prefix + std::to_string(random() % 900000 + 100000);
}

}  // namespace runbus::agent_test
