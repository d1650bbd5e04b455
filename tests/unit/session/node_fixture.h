#pragma once

#include <signal.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "services/session/session_manager.h"
#include "tests/unit/session/loop.h"

namespace runbus::testing {

// A node of one test: a state directory and the real agent under the engine without a boundary.
// Ends every sandbox.
class NodeFixture {
 public:
  NodeFixture() {
    session::EngineOptions options;
    options.engine = "process";
    options.insecure = true;
    engine = std::move(session::make_engine(options).value());
  }
  ~NodeFixture() { (void)session::destroy_all_sandboxes(state_dir()); }

  std::string state_dir() const { return directory.path() + "/state"; }

  session::ManagerOptions options() {
    session::ManagerOptions result;
    result.keeper.state_dir = state_dir();
    result.keeper.agent = RUNBUS_AGENT;
    result.on_opened = [this](const std::string& id) { events.push_back("opened " + id); };
    result.on_closed = [this](const std::string& id) { events.push_back("closed " + id); };
    return result;
  }
  std::unique_ptr<session::SessionManager> make_manager() { return make_manager(options()); }
  std::unique_ptr<session::SessionManager> make_manager(session::ManagerOptions with) {
    auto manager = std::make_unique<session::SessionManager>(loop.io, *engine, std::move(with));
    if (!manager->prepare()) {
      throw std::runtime_error("no state directory");
    }
    return manager;
  }

  // find_or_create, waited for.
  Result<session::SessionPtr> open(session::SessionManager& manager, const std::string& id) {
    return wait<Result<session::SessionPtr>>(
        [&](auto done) { manager.find_or_create(id, {}, std::move(done)); });
  }
  Result<session::SessionPtr> find(session::SessionManager& manager, const std::string& id) {
    return wait<Result<session::SessionPtr>>([&](auto done) { manager.find(id, std::move(done)); });
  }
  Result<void> close(session::SessionManager& manager, const std::string& id) {
    return wait<Result<void>>([&](auto done) { manager.close(id, std::move(done)); });
  }
  Result<session::agent_v1::AgentReply> ask(session::Session& session,
                                            session::agent_v1::AgentRequest request) {
    return wait<Result<session::agent_v1::AgentReply>>(
        [&](auto done) { session.agent().request(std::move(request), {}, std::move(done)); });
  }
  pid_t agent_pid(session::Session& session) {
    session::agent_v1::AgentRequest hello;
    hello.mutable_hello();
    return static_cast<pid_t>(ask(session, hello).value().welcome().pid());
  }
  bool leaves_nothing(const std::string& session_id) const {
    const session::SandboxStore store(state_dir());
    return !store.exists(session::sandbox_key(session_id));
  }

  template <class T>
  T wait(const std::function<void(std::function<void(T)>)>& start) {
    auto result = std::make_shared<std::optional<T>>();
    start([result](T value) { result->emplace(std::move(value)); });
    if (!loop.until([&] { return result->has_value(); })) {
      throw std::runtime_error("no answer");
    }
    return std::move(**result);
  }

  TemporaryDirectory directory;
  std::unique_ptr<session::Engine> engine;
  Loop loop;
  std::vector<std::string> events;
};

}  // namespace runbus::testing
