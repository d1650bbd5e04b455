#pragma once

#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>

// What the tests of this folder share: a directory that goes away, small files, and waiting with a
// deadline.
namespace runbus::cli::testing {

inline constexpr std::chrono::seconds kPatience{60};

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = std::filesystem::temp_directory_path().string() + "/runbus-tools-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) {
      throw std::runtime_error("mkdtemp");
    }
    path_ = pattern;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline std::string content_of(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Complete under its name at once, so that whoever polls for it never sees half of it.
inline std::string make_script(const std::string& path, const std::string& body) {
  std::ofstream(path + ".part") << "#!/bin/sh\n" << body;
  ::chmod((path + ".part").c_str(), 0755);
  std::filesystem::rename(path + ".part", path);
  return path;
}

inline bool wait_until(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

// Whether the process is there and no zombie.
inline bool is_alive(pid_t pid) {
  const std::string stat = content_of("/proc/" + std::to_string(pid) + "/stat");
  const std::size_t end = stat.rfind(')');
  return end != std::string::npos && stat.size() > end + 2 && stat[end + 2] != 'Z';
}

// The number that a script writes into a file, once it is there.
inline pid_t pid_in(const std::string& path) {
  pid_t pid = 0;
  wait_until([&] {
    const std::string text = content_of(path);
    if (!text.ends_with('\n')) {
      return false;
    }
    pid = static_cast<pid_t>(std::stol(text));
    return true;
  });
  return pid;
}

inline int mode_of(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? static_cast<int>(info.st_mode & 07777U) : -1;
}

// Waits for a child of the test; its exit code, 128 + signal, or -1 when it had to be killed.
inline int wait_for_child(
    pid_t pid, const std::function<void()>& meanwhile = [] {}) {
  int status = 0;
  const bool ended = wait_until([&] {
    meanwhile();
    return ::waitpid(pid, &status, WNOHANG) == pid;
  });
  if (!ended) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, &status, 0);
    return -1;
  }
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace runbus::cli::testing
