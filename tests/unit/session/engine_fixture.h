#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "proto/support/id.h"
#include "services/session/engine.h"
#include "services/session/engine_state.h"

// Real sandboxes for tests: a session's folders, the stand-in agent in it, and its commands by the
// socket.
namespace runbus::session::testing {

// The OCI runtime under test: crun, or what RUNBUS_TEST_RUNTIME names.
inline std::string runtime_under_test() {
  const char* chosen = std::getenv("RUNBUS_TEST_RUNTIME");
  return chosen == nullptr ? std::string() : std::string(chosen);
}

// `name` is that of an engine, or "runsc": the oci engine with that runtime.
inline EngineOptions options_of(const std::string& name) {
  EngineOptions options;
  options.engine = name == "runsc" ? "oci" : name;
  options.insecure = true;
  options.runtime = name == "runsc" ? name : runtime_under_test();
  return options;
}

inline const Probe& probe_of(const std::string& engine) {
  static std::map<std::string, Probe> probes;
  if (!probes.contains(engine)) {
    const EngineOptions options = options_of(engine);
    auto made = make_engine(options);
    probes[engine] = made ? (*made)->probe() : Probe{};
  }
  return probes[engine];
}

// Most tests look into the workspace from outside, so it is a folder of the host.
inline std::unique_ptr<Engine> engine_of(const std::string& name, const std::string& rootfs = {},
                                         const std::string& workspace_quota = "soft") {
  EngineOptions options = options_of(name);
  options.rootfs = rootfs;
  options.workspace_quota = workspace_quota;
  return std::move(make_engine(options).value());
}

// One sandbox with everything it needs, destroyed and removed at the end.
class Session {
 public:
  explicit Session(std::string engine, std::string agent = RUNBUS_TEST_AGENT,
                   const std::string& workspace_quota = "soft")
      : engine_name_(std::move(engine)), engine_(engine_of(engine_name_, {}, workspace_quota)) {
    std::string pattern = (std::filesystem::temp_directory_path() / "runbus-test-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
    ::mkdir((folder_ + "/state").c_str(), 0700);
    ::mkdir((folder_ + "/state/log").c_str(), 0700);
    ::mkdir((folder_ + "/workspace").c_str(), 0700);
    listener_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_un address = socket_address();
    EXPECT_EQ(0,
              ::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address));
    EXPECT_EQ(0, ::listen(listener_.get(), 16));
    log_dir_.reset(::open((folder_ + "/state/log").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    spec_.session_id = spec_.key = "test-" + random_hex(8);
    spec_.state_dir = folder_ + "/state";
    spec_.workspace = folder_ + "/workspace";
    spec_.agent = std::move(agent);
    spec_.listen_fd = listener_.get();
    spec_.listen_path = folder_ + "/state/agent.sock";
    spec_.log_dir_fd = log_dir_.get();
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session() {
    const Result<void> destroyed = engine_->destroy(spec_.state_dir);
    EXPECT_TRUE(destroyed) << to_string(destroyed.error());
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  SandboxSpec& spec() { return spec_; }
  Engine& engine() { return *engine_; }
  const std::string& state_dir() const { return spec_.state_dir; }
  std::string log() const { return read_small_file(spec_.state_dir + "/sandbox.log"); }

  Sandbox start() {
    const Result<Sandbox> made = engine_->create(spec_);
    EXPECT_TRUE(made) << to_string(made.error()) << "\n" << log();
    return made ? *made : Sandbox{};
  }

  UniqueFd connect() const {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_un address = socket_address();
    const timeval bound{60, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
    EXPECT_EQ(0, ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address));
    return fd;
  }

  // What `command` prints in the sandbox's shell, then "exit N".
  std::string run(const std::string& command) const {
    const UniqueFd fd = connect();
    const std::string line = command + "\n";
    EXPECT_EQ(static_cast<ssize_t>(line.size()),
              ::send(fd.get(), line.data(), line.size(), MSG_NOSIGNAL));
    std::string output;
    char buffer[4096];
    for (ssize_t got = 0; (got = ::read(fd.get(), buffer, sizeof buffer)) > 0;) {
      output.append(buffer, static_cast<std::size_t>(got));
    }
    return output;
  }
  std::string attack(const std::string& name) const {
    return run((engine_name_ == "process" ? spec_.agent : "/run/runbus/runbus-agent") + " attack " +
               name);
  }

 private:
  sockaddr_un socket_address() const {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    (folder_ + "/state/agent.sock").copy(address.sun_path, sizeof address.sun_path - 1);
    return address;
  }

  std::string engine_name_;
  std::unique_ptr<Engine> engine_;
  std::string folder_;
  UniqueFd listener_;
  UniqueFd log_dir_;
  SandboxSpec spec_;
};

// Until `condition` holds; false after half a minute.
template <class Condition>
bool eventually(Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

}  // namespace runbus::session::testing
