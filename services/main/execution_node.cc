#include "services/main/execution_node.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "proto/support/log.h"
#include "services/execution/execution_service.h"
#include "services/execution/session_service.h"
#include "services/session/log_archive.h"
#include "services/session/session_manager.h"

namespace runbus::main {
namespace {

std::filesystem::path own_directory() {
  std::error_code failure;
  const auto executable = std::filesystem::read_symlink("/proc/self/exe", failure);
  return failure ? std::filesystem::path(".") : executable.parent_path();
}

std::string find_agent(const NodeFlags& flags) {
  const std::string path =
      flags.agent.empty() ? (own_directory() / "runbus-agent").string() : flags.agent;
  if (::access(path.c_str(), X_OK) != 0) {
    throw std::runtime_error("no agent at " + path + ": name it with --agent");
  }
  return std::filesystem::absolute(path).string();
}

std::vector<execution::Language> read_languages(const NodeFlags& flags) {
  std::filesystem::path path = flags.languages;
  if (path.empty()) {
    path = own_directory() / "../share/runbus/languages.toml";
    if (!std::filesystem::exists(path)) {
      path = RUNBUS_SOURCE_LANGUAGES;
    }
  }
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) {
    throw std::runtime_error("cannot read the language table " + path.string() +
                             ": name it with --languages");
  }
  auto languages = execution::parse_languages(text.str());
  if (!languages) {
    throw std::runtime_error(path.string() + ": " + languages.error().detail);
  }
  return std::move(*languages);
}

// What the services share. They own it together; the manager lets go of its threads before the
// engine goes.
struct Node {
  std::unique_ptr<session::Engine> engine;
  std::optional<execution::Toolchain> toolchain;
  std::optional<session::SessionManager> manager;
  std::optional<session::LogArchive> archive;
  std::set<std::string> kept;  // sessions that have ended, of which the archive keeps something
};

// Their output is asked for here, so brokers go on sending their calls here.
void hold_kept_sessions(Node& node, worker::Worker& worker, const std::vector<std::string>& kept) {
  std::set<std::string> gone = std::exchange(node.kept, {kept.begin(), kept.end()});
  for (const std::string& id : kept) {
    if (gone.erase(id) == 0) {
      worker.hold_session(id);
    }
  }
  if (gone.empty()) {
    return;
  }
  node.manager->list([&worker, gone = std::move(gone)](
                         const std::vector<session::SandboxRecord>& sandboxes) mutable {
    for (const session::SandboxRecord& living : sandboxes) {
      gone.erase(living.session_id);
    }
    for (const std::string& id : gone) {
      worker.let_go_of_session(id);
    }
  });
}

session::ManagerOptions manager_options(const NodeFlags& flags, Node& node,
                                        worker::Worker& worker) {
  session::ManagerOptions options;
  options.keeper.state_dir = std::filesystem::absolute(flags.state_dir).string();
  options.keeper.agent = find_agent(flags);
  options.keeper.max_sessions = flags.max_sessions;
  options.keeper.made_of =
      flags.engine.runtime + "|" + flags.engine.rootfs + "|" + flags.engine.workspace_quota;
  options.pool.size = flags.pool;
  options.pool.session.limits = flags.limits;
  options.destroy_after = std::chrono::seconds(flags.destroy_after);
  options.keeper.destroy_after = options.destroy_after;
  // Sweeps end paused sessions, so they come often enough for that.
  options.sweep_interval = std::clamp<std::chrono::milliseconds>(
      options.destroy_after / 3, std::chrono::seconds(1), options.sweep_interval);
  options.result_ttl = std::chrono::seconds(flags.result_ttl);
  options.keeper.log_space = flags.log_space;
  options.node_log_space = flags.node_log_space;
  options.warm = [&node] {
    std::vector<session::agent_v1::Warm> all;
    for (const execution::Language& language : node.toolchain->languages()) {
      if (!language.warm.empty()) {
        session::agent_v1::Warm& warm = all.emplace_back();
        warm.set_name(language.warm);
        warm.mutable_argv()->Assign(language.warm_run.begin(), language.warm_run.end());
        warm.mutable_preload()->Assign(language.preload.begin(), language.preload.end());
        warm.add_environment("PATH=" + std::string(execution::kToolPath));
        warm.add_environment("LANG=C.UTF-8");
        for (const std::string& line : execution::environment_of(language, {}, {}, {})) {
          if (line != "HOME=") {  // of a workspace that only the agent knows
            warm.add_usual_environment(line);
          }
        }
      }
    }
    return all;
  };
  const auto publish = [&worker](const char* topic, const std::string& session_id) {
    google::protobuf::Struct data;
    (*data.mutable_fields())["session_id"].set_string_value(session_id);
    (*data.mutable_fields())["node"].set_string_value(worker.node());
    worker.publish(topic, std::move(data));
  };
  options.on_opened = [publish](const std::string& id) { publish("session.opened", id); };
  options.on_closed = [publish, &node, &worker](const std::string& id) {
    if (node.archive->has(id)) {
      node.kept.insert(id);
    } else {
      worker.let_go_of_session(id);
    }
    publish("session.closed", id);
  };
  options.on_paused = [publish](const std::string& id) { publish("session.paused", id); };
  options.on_resumed = [publish](const std::string& id) { publish("session.resumed", id); };
  return options;
}

session::ArchiveOptions archive_options(const NodeFlags& flags, Node& node,
                                        worker::Worker& worker) {
  session::ArchiveOptions options;
  options.state_dir = std::filesystem::absolute(flags.state_dir).string();
  options.bounds.ttl = std::chrono::seconds(flags.result_ttl);
  options.bounds.bytes = flags.kept_log_space;
  options.bounds.count = flags.kept_logs;
  options.on_swept = [&node, &worker](const std::vector<std::string>& kept) {
    hold_kept_sessions(node, worker, kept);
  };
  return options;
}

}  // namespace

ProbedEngine make_probed_engine(const NodeFlags& flags) {
  auto engine = session::make_engine(flags.engine);
  if (!engine) {
    throw std::runtime_error(engine.error().detail.empty() ? to_string(engine.error())
                                                           : engine.error().detail);
  }
  ProbedEngine probed{std::move(*engine), {}};
  probed.probe = probed.engine->probe();
  return probed;
}

std::vector<std::unique_ptr<worker::Service>> make_execution_services(const NodeFlags& flags,
                                                                      boost::asio::io_context& io,
                                                                      worker::Worker& worker) {
  ProbedEngine probed = make_probed_engine(flags);
  if (!probed.probe.works) {
    std::string why;
    for (const auto& [resource, reason] : probed.probe.why) {
      why += "\n  " + resource + ": " + reason;
    }
    throw std::runtime_error("the engine " + probed.engine->name() + " does not work here:" + why);
  }
  std::string soft;
  for (const char* resource : {"memory", "pids", "cpu"}) {
    if (probed.probe.enforced[resource] != "cgroup") {
      spdlog::warn("{} is not bounded by a cgroup here: {}", resource, probed.probe.why[resource]);
      soft += (soft.empty() ? "" : ", ") + std::string(resource);
    }
  }
  if (flags.require_limits && !soft.empty()) {
    throw std::runtime_error("--require-limits: this machine does not enforce " + soft);
  }
  const auto node = std::make_shared<Node>();
  node->engine = std::move(probed.engine);
  node->toolchain.emplace(io, read_languages(flags), flags.engine.rootfs);
  session::ManagerOptions manager = manager_options(flags, *node, worker);
  if (probed.probe.enforced["pause"] == "none") {
    spdlog::info("idle sessions are not paused: {}", probed.probe.why["pause"]);
  } else {
    manager.pause_after = std::chrono::seconds(flags.pause_after);
  }
  manager.soft_quota = probed.probe.enforced["disk"] == "soft";
  node->manager.emplace(io, *node->engine, std::move(manager));
  node->archive.emplace(io, archive_options(flags, *node, worker));
  if (auto prepared = node->manager->prepare(); !prepared) {
    throw std::runtime_error("--state-dir: " + to_string(prepared.error()));
  }
  if (auto prepared = node->archive->prepare(); !prepared) {
    throw std::runtime_error("--state-dir: " + to_string(prepared.error()));
  }
  node->manager->adopt();
  // Brokers learn of the sessions of an earlier process: their calls belong to this node.
  node->manager->list([&worker](const std::vector<session::SandboxRecord>& sandboxes) {
    for (const session::SandboxRecord& sandbox : sandboxes) {
      worker.hold_session(sandbox.session_id);
    }
  });
  node->archive->sweep();
  // Sessions that are opened before the probes have ended get their warm interpreters then.
  node->toolchain->when_known([&manager = *node->manager] { manager.reconfigure(); });
  spdlog::info("engine {}, state in {}", node->engine->name(), flags.state_dir);

  execution::ExecutorOptions execution_options;
  execution_options.capacity = flags.capacity;
  execution_options.allow_network = flags.allow_network;
  execution_options.limits = flags.limits;
  execution_options.publish = [&worker](const std::string& topic, google::protobuf::Struct data) {
    worker.publish(topic, std::move(data));
  };
  execution::SessionServiceOptions session_options;
  session_options.node = worker.node();
  session_options.engine = node->engine->name();
  session_options.enforced = probed.probe.enforced;
  session_options.allow_network = flags.allow_network;
  session_options.limits = flags.limits;

  std::vector<std::unique_ptr<worker::Service>> services;
  services.push_back(std::make_unique<execution::ExecutionService>(
      io, node, *node->manager, *node->archive, *node->toolchain, std::move(execution_options)));
  services.push_back(std::make_unique<execution::SessionService>(
      std::shared_ptr<session::SessionManager>(node, &*node->manager), std::move(session_options)));
  return services;
}

}  // namespace runbus::main
