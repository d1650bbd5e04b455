// runbus-worker SERVICE [flags]: attaches a service of this node to the bus.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <string_view>

#include "proto/support/log.h"
#include "proto/wire/transcoder.h"
#include "services/main/execution_node.h"
#include "services/session/sandbox_keeper.h"

namespace runbus::main {
namespace {

void add_engine_flags(CLI::App& app, NodeFlags& flags) {
  app.add_option("--state-dir", flags.state_dir,
                 "Directory of this node's sandboxes; workers of the node share it")
      ->capture_default_str();
  app.add_option("--engine", flags.engine.engine, "What makes sandboxes")
      ->check(CLI::IsMember({"auto", "oci", "bubblewrap", "process"}))
      ->capture_default_str();
  app.add_flag("--insecure", flags.engine.insecure,
               "Allow the engine \"process\", which is no boundary");
  app.add_option("--runtime", flags.engine.runtime,
                 "OCI runtime: crun, runc, runsc (gVisor) or a path to one");
  app.add_option("--workspace-quota", flags.engine.workspace_quota,
                 "What bounds a workspace: loop (a file system of its own), soft (measured), none, "
                 "or auto: the first of loop and soft that works")
      ->check(CLI::IsMember({"auto", "loop", "soft", "none"}))
      ->capture_default_str();
  app.add_option("--rootfs", flags.engine.rootfs,
                 "Directory of an unpacked image (default: the host's /usr, read-only)");
}

void add_node_flags(CLI::App& app, NodeFlags& flags) {
  add_engine_flags(app, flags);
  app.add_option("--agent", flags.agent, "Path of runbus-agent (default: beside this program)");
  app.add_option("--languages", flags.languages, "Language table (default: the installed one)");
  const CLI::AsSizeValue size(false);
  app.add_option("--memory", flags.limits.memory, "Memory of a session, as 512MiB")
      ->transform(size)
      ->capture_default_str();
  app.add_option("--cpus", flags.limits.cpus, "Processors of a session")
      ->check(CLI::Range(0.01, 1024.0))
      ->capture_default_str();
  app.add_option("--processes", flags.limits.processes, "Processes of a session")
      ->check(CLI::Range(4, 1'000'000))
      ->capture_default_str();
  app.add_option("--disk", flags.limits.disk, "Bytes of a session's workspace, as 1GiB")
      ->transform(size)
      ->capture_default_str();
  app.add_flag("--allow-network", flags.allow_network, "Sessions may ask for the host's network");
  app.add_flag("--require-limits", flags.require_limits,
               "Refuse to start where memory, processes and processor time are not enforced");
  app.add_option("--max-sessions", flags.max_sessions, "Sessions of this node at once")
      ->check(CLI::Range(1, 9'000))
      ->capture_default_str();
  app.add_option("--pool", flags.pool,
                 "Sandboxes of the node that are kept ready for new sessions; 0: none")
      ->check(CLI::Range(0, 64))
      ->capture_default_str();
  app.add_option("--destroy-after", flags.destroy_after, "Seconds until an unused session ends")
      ->check(CLI::Range(1, 31'536'000))
      ->capture_default_str();
  app.add_option("--pause-after", flags.pause_after,
                 "Seconds until an idle session is frozen; the next call resumes it; 0: never")
      ->check(CLI::Range(0, 31'536'000))
      ->capture_default_str();
  app.add_option(
         "--result-ttl", flags.result_ttl,
         "Seconds that an ended execution's output is kept, also when its session has ended")
      ->check(CLI::Range(1, 31'536'000))
      ->capture_default_str();
  app.add_option("--log-space", flags.log_space,
                 "Bytes of disk for the output of a session's executions, as 256MiB")
      ->transform(size)
      ->check(CLI::Range(std::uint64_t{1} << 20, std::uint64_t{1} << 40))
      ->capture_default_str();
  app.add_option("--node-log-space", flags.node_log_space,
                 "The same of all living sessions together, each an equal share, as 4GiB")
      ->transform(size)
      ->check(CLI::Range(std::uint64_t{1} << 20, std::uint64_t{1} << 50))
      ->capture_default_str();
  app.add_option("--kept-log-space", flags.kept_log_space,
                 "Bytes of disk for what is kept of sessions that have ended, as 1GiB")
      ->transform(size)
      ->capture_default_str();
  app.add_option("--kept-logs", flags.kept_logs, "Executions kept of sessions that have ended")
      ->capture_default_str();
  app.add_option("--capacity", flags.capacity, "Executions at once")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str();
}

std::string json_object(const std::map<std::string, std::string>& values) {
  std::string json = "{";
  for (const auto& [name, value] : values) {
    json += json.size() > 1 ? "," : "";
    wire::append_json_string(name, json);
    json += ":";
    wire::append_json_string(value, json);
  }
  return json + "}";
}

// What this machine enforces, as JSON on standard output; for `runbus doctor` and /health.
int probe(const NodeFlags& flags) {
  const ProbedEngine probed = make_probed_engine(flags);
  std::string json = "{\"engine\":";
  wire::append_json_string(probed.engine->name(), json);
  json += std::string(",\"works\":") + (probed.probe.works ? "true" : "false");
  json += ",\"enforced\":" + json_object(probed.probe.enforced);
  json += ",\"why\":" + json_object(probed.probe.why) + "}";
  std::cout << json << std::endl;
  return probed.probe.works ? EXIT_SUCCESS : EXIT_FAILURE;
}

int destroy_sessions(const NodeFlags& flags) {
  const auto destroyed = session::destroy_all_sandboxes(flags.state_dir);
  if (!destroyed) {
    spdlog::error("{}", to_string(destroyed.error()));
    return EXIT_FAILURE;
  }
  spdlog::info("destroyed {} sessions", *destroyed);
  return EXIT_SUCCESS;
}

// The two commands that need no bus.
int run_command(int argc, char** argv) {
  NodeFlags flags;
  bool do_probe = false;
  bool do_destroy = false;
  CLI::App app{
      "runbus-worker SERVICE [flags]   attaches a service to the bus; services: execution\n"
      "runbus-worker --probe            says what this machine enforces, as JSON\n"
      "runbus-worker --destroy-sessions ends every sandbox of a state directory"};
  app.set_version_flag("--version", RUNBUS_VERSION);
  add_engine_flags(app, flags);
  auto* probe_flag = app.add_flag("--probe", do_probe, "Print the engine's probe as JSON");
  app.add_flag("--destroy-sessions", do_destroy, "End every sandbox of --state-dir")
      ->excludes(probe_flag);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  if (!do_probe && !do_destroy) {
    std::cerr << app.help();
    return EXIT_FAILURE;
  }
  setup_logging("runbus-worker", "info");
  try {
    return do_probe ? probe(flags) : destroy_sessions(flags);
  } catch (const std::exception& error) {
    spdlog::critical("{}", error.what());
    return EXIT_FAILURE;
  }
}

int run(int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') {
    return run_command(argc, argv);
  }
  const std::string service = argv[1];
  if (service != "execution") {
    std::cerr << "runbus-worker: no service \"" << printable(service)
              << "\"; there is: execution\n";
    return EXIT_FAILURE;
  }
  argv[1] = argv[0];
  NodeFlags flags;
  return worker::run(
      argc - 1, argv + 1, service,
      [&flags](boost::asio::io_context& io, worker::Worker& worker) {
        return make_execution_services(flags, io, worker);
      },
      [&flags](CLI::App& app) { add_node_flags(app, flags); });
}

}  // namespace
}  // namespace runbus::main

int main(int argc, char** argv) { return runbus::main::run(argc, argv); }
