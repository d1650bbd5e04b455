#include "tools/runbus/arguments.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>
#include <memory>

#include "tools/runbus/config.h"

namespace runbus::cli {
namespace {

// Everything that the flags write into, alive as long as the parser is.
struct Parsed {
  UpOptions up;
  ExecOptions exec;
  AttachOptions attach;
  CallOptions call;
  SubscribeOptions subscribe;
  WorkersOptions workers;
  DoctorOptions doctor;
  KeysNewOptions keys_new;
  KeysServerOptions keys_server;
  TokenOptions token;
  BenchOptions bench;
  SelfCheckOptions self_check;
  BenchPeerOptions bench_peer;
};

void add_gateway_options(CLI::App& app, GatewayChoice& choice) {
  app.add_option("--url", choice.url,
                 "The gateway, http://HOST:PORT or ws://HOST:PORT/ws (default: $RUNBUS_URL)");
  app.add_option("--token-file", choice.token_file, "File with the token (default: $RUNBUS_TOKEN)");
  app.add_option("--state-dir", choice.state_dir, "Use the `runbus up` of this state directory");
}

CLI::App* add_up(CLI::App& app, UpOptions& up) {
  CLI::App* command =
      app.add_subcommand("up", "Start a broker, a gateway and workers, and keep them running");
  // So that a value of the command line, which comes later, replaces one of the --config file.
  command->option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  command->add_option("--listen", up.listen, "HOST:PORT of the gateway; port 0: any free port")
      ->capture_default_str();
  command->add_option("--state-dir", up.state_dir, "Where token, sockets and sessions are kept");
  command->add_option("--token", up.token,
                      "The token clients must show (default: made at the first start)");
  command->add_option("--token-file", up.token_file, "File with the token");
  command->add_option("--config", up.config, "TOML file with the same names as these flags");
  command->add_option("--workers", up.workers, "Execution workers")
      ->check(CLI::Range(0, 64))
      ->capture_default_str();
  command
      ->add_option("--brokers", up.brokers,
                   "Brokers: with two the death of one is noticed by nobody")
      ->check(CLI::Range(1, 8))
      ->capture_default_str();
  command->add_flag("--insecure,!--no-insecure", up.insecure,
                    "Allow the engine `process`, which isolates nothing: for development");
  command->add_option("--engine", up.engine,
                      "Engine of the sandboxes (default: the best that works)");
  command->add_option("--runtime", up.runtime,
                      "OCI runtime: crun, runc, runsc (gVisor) or a path to one");
  command->add_flag("--allow-network,!--no-allow-network", up.allow_network,
                    "Let clients ask for sessions with network access");
  command->add_flag("--require-limits,!--no-require-limits", up.require_limits,
                    "Refuse to start where a limit cannot be enforced");
  for (std::vector<PassedOn>* group : {&up.to_gateway, &up.to_worker}) {
    for (PassedOn& each : *group) {
      command->add_option(each.flag, each.value, each.help);
    }
  }
  command->add_option(
      "--broker-listen", up.broker_listen,
      "tcp://HOST:PORT for workers on other hosts (CURVE), events one port above it; a "
      "second broker listens two ports above the first, and so on");
  command->add_option("--authorized-keys", up.authorized_keys,
                      "Directory of the public keys that may attach there");
  command->add_flag("--check", up.check, "Start, run a program, stop; exit code 0 or 1");
  command->add_flag("--json,!--no-json", up.json, "Print one line of JSON when ready");
  command->add_option("--log-level", up.log_level, "trace, debug, info, warning, error or off")
      ->check(CLI::IsMember({"trace", "debug", "info", "warning", "error", "critical", "off"}))
      ->capture_default_str();
  command->option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_option("--allow-origin", up.allow_origin,
                      "Origin of a web page that may connect (repeatable)");
  return command;
}

CLI::App* add_exec(CLI::App& app, ExecOptions& exec) {
  CLI::App* command =
      app.add_subcommand("exec", "Run a program; streams and exit code are the program's");
  command->footer("What follows -- is given to the program as its arguments.");
  add_gateway_options(*command, exec.gateway);
  command->add_option("-l,--language", exec.language,
                      "Language (default: guessed from the file's name)");
  CLI::Option* code = command->add_option("-c,--code", exec.code, "The program's text");
  command->add_option("file", exec.file, "File with the program's text; - is standard input")
      ->excludes(code);
  command->add_option("--session", exec.session, "Session to run in (default: one of its own)");
  command->add_option("--timeout", exec.timeout, "Seconds the program may run")
      ->check(CLI::PositiveNumber);
  command->add_flag("--json", exec.json, "Print every item and the result as a line of JSON");
  return command;
}

CLI::App* add_attach(CLI::App& app, AttachOptions& attach) {
  CLI::App* command = app.add_subcommand("attach", "Follow a running or ended execution");
  add_gateway_options(*command, attach.gateway);
  command->add_option("execution", attach.execution, "Id of the execution")->required();
  command->add_option("--session", attach.session, "Session of the execution");
  command->add_option("--offset", attach.offset, "Where in the output to begin")
      ->capture_default_str();
  command->add_flag("--json", attach.json, "Print every item and the result as a line of JSON");
  return command;
}

CLI::App* add_call(CLI::App& app, CallOptions& call, bool& json) {
  CLI::App* command = app.add_subcommand("call", "Call any method; prints its result as JSON");
  add_gateway_options(*command, call.gateway);
  command->add_option("method", call.method, "Method, as in `rpc.discover`")->required();
  command->add_option("params", call.params, "Params, a JSON object")->capture_default_str();
  command->add_flag("--stream", call.stream, "Also print the call's notifications, one line each");
  command->add_option("--timeout", call.timeout, "Seconds to wait (default: for ever)")
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--json", json, "As without it: the output is JSON");
  return command;
}

CLI::App* add_subscribe(CLI::App& app, SubscribeOptions& subscribe) {
  CLI::App* command = app.add_subcommand("subscribe", "Print events as they happen");
  add_gateway_options(*command, subscribe.gateway);
  command->add_option("topics", subscribe.topics, "Globs over topics: 'code_execution.*'")
      ->required();
  command->add_option("--count", subscribe.count, "End after so many events");
  command->add_flag("--json", subscribe.json, "One line of JSON per event");
  return command;
}

CLI::App* add_doctor(CLI::App& app, DoctorOptions& doctor) {
  CLI::App* command = app.add_subcommand(
      "doctor", "Say what sandboxes this machine can make, and what they enforce");
  command->add_option("--engine", doctor.engine, "Look at this engine alone");
  command->add_option("--runtime", doctor.runtime,
                      "OCI runtime: crun, runc, runsc (gVisor) or a path to one");
  command->add_flag("--insecure", doctor.insecure, "Consider the engine `process` too");
  command->add_flag("--json", doctor.json, "Print what the probe printed");
  return command;
}

CLI::App* add_bench(CLI::App& app, BenchOptions& bench) {
  CLI::App* command =
      app.add_subcommand("bench", "Measure against baselines taken in the same run");
  add_gateway_options(*command, bench.gateway);
  command->add_flag("--quick", bench.quick, "Fewer rounds: for a smoke test");
  command->add_flag("--json", bench.json, "Print the table as JSON");
  command->add_flag("--insecure", bench.insecure, "Start the measured runbus with --insecure");
  command->add_option("--engine", bench.engine, "Start the measured runbus with this engine");
  command->add_option("--only", bench.only,
                      "Only these groups: echo, execute, stream, events, connections, sessions");
  return command;
}

// A subcommand and how its options become the Command.
struct Entry {
  CLI::App* app;
  std::function<Command()> make;
};

std::vector<Entry> add_commands(CLI::App& app, Parsed& parsed, bool& unused_json) {
  std::vector<Entry> entries;
  entries.push_back({add_up(app, parsed.up), [&] { return parsed.up; }});
  entries.push_back({add_exec(app, parsed.exec), [&] { return parsed.exec; }});
  entries.push_back({add_attach(app, parsed.attach), [&] { return parsed.attach; }});
  entries.push_back({add_call(app, parsed.call, unused_json), [&] { return parsed.call; }});
  entries.push_back({add_subscribe(app, parsed.subscribe), [&] { return parsed.subscribe; }});

  CLI::App* workers = app.add_subcommand("workers", "List the workers that are attached");
  add_gateway_options(*workers, parsed.workers.gateway);
  workers->add_flag("--json", parsed.workers.json, "Print JSON");
  entries.push_back({workers, [&] { return parsed.workers; }});
  entries.push_back({add_doctor(app, parsed.doctor), [&] { return parsed.doctor; }});

  CLI::App* keys =
      app.add_subcommand("keys", "Make the CURVE keys of workers and gateways on other hosts");
  keys->require_subcommand(1);
  CLI::App* keys_new = keys->add_subcommand(
      "new", "Make a key pair: NAME.pub for the broker, NAME.secret for the peer");
  keys_new->add_option("name", parsed.keys_new.name, "Name of the peer")->required();
  keys_new->add_option("--role", parsed.keys_new.role, "What the peer may be")
      ->required()
      ->check(CLI::IsMember({"worker", "gateway", "subscriber"}));
  keys_new->add_option("--dir", parsed.keys_new.directory, "Directory to write to")->required();
  keys_new->add_flag("--json", parsed.keys_new.json, "Print JSON");
  entries.push_back({keys_new, [&] { return parsed.keys_new; }});
  CLI::App* keys_server = keys->add_subcommand("server", "Print the broker's public key");
  keys_server->add_option("--state-dir", parsed.keys_server.state_dir,
                          "State directory of `runbus up`");
  keys_server->add_flag("--json", parsed.keys_server.json, "Print JSON");
  entries.push_back({keys_server, [&] { return parsed.keys_server; }});

  CLI::App* token = app.add_subcommand("token", "Print the token of a state directory");
  token->add_option("--state-dir", parsed.token.state_dir, "State directory of `runbus up`");
  token->add_flag("--new", parsed.token.make_new, "Make another token first");
  token->add_flag("--json", parsed.token.json, "Print JSON");
  entries.push_back({token, [&] { return parsed.token; }});
  entries.push_back({add_bench(app, parsed.bench), [&] { return parsed.bench; }});

  CLI::App* self_check = app.add_subcommand("self-check")->group("");
  add_gateway_options(*self_check, parsed.self_check.gateway);
  entries.push_back({self_check, [&] { return parsed.self_check; }});
  CLI::App* bench_peer = app.add_subcommand("bench-peer")->group("");
  bench_peer->add_option("kind", parsed.bench_peer.kind)->required();
  bench_peer->add_option("endpoints", parsed.bench_peer.endpoints);
  bench_peer->add_option("--ready-fd", parsed.bench_peer.ready_fd);
  entries.push_back({bench_peer, [&] { return parsed.bench_peer; }});
  return entries;
}

NoCommand usage_error(const std::string& text) {
  return NoCommand{"runbus: " + text + "\nSee runbus --help.\n", 2};
}

// One pass over the arguments. `known` is filled with the flag names of `up`, for the config file.
std::variant<Command, NoCommand> parse_once(std::vector<std::string> arguments,
                                            std::vector<std::string>* known) {
  CLI::App app("runbus: runs other people's code, on machines you own", "runbus");
  app.set_version_flag("--version", std::string("runbus " RUNBUS_VERSION));
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);

  Parsed parsed;
  bool unused_json = false;
  const std::vector<Entry> entries = add_commands(app, parsed, unused_json);
  for (const CLI::Option* option : entries.front().app->get_options()) {
    for (const std::string& name : option->get_lnames()) {
      known->push_back(name);
    }
  }

  // What follows `--` is the program's own, whatever it looks like.
  const auto dashes = std::find(arguments.begin(), arguments.end(), "--");
  if (dashes != arguments.end() && arguments.front() == "exec") {
    parsed.exec.arguments.assign(dashes + 1, arguments.end());
    arguments.erase(dashes, arguments.end());
  }

  try {
    std::reverse(arguments.begin(), arguments.end());
    app.parse(arguments);
  } catch (const CLI::CallForHelp&) {
    return NoCommand{app.help(), 0};  // of the subcommand that was named
  } catch (const CLI::CallForVersion&) {
    return NoCommand{"runbus " RUNBUS_VERSION "\n", 0};
  } catch (const CLI::ParseError& error) {
    return usage_error(error.what());
  }
  for (const Entry& entry : entries) {
    if (entry.app->parsed()) {
      return entry.make();
    }
  }
  return usage_error("no command");
}

}  // namespace

std::variant<Command, NoCommand> parse_arguments(std::vector<std::string> arguments) {
  std::vector<std::string> known;
  std::variant<Command, NoCommand> parsed = parse_once(arguments, &known);
  const Command* command = std::get_if<Command>(&parsed);
  const UpOptions* up = command == nullptr ? nullptr : std::get_if<UpOptions>(command);
  if (up == nullptr || up->config.empty()) {
    return parsed;
  }
  std::erase(known, "config");
  std::erase(known, "help");
  std::erase(known, "check");
  const Result<std::vector<std::string>> from_file = read_config(up->config, known);
  if (!from_file) {
    return usage_error(from_file.error().detail);
  }
  arguments.insert(arguments.begin() + 1, from_file->begin(), from_file->end());
  return parse_once(std::move(arguments), &known);
}

}  // namespace runbus::cli
