#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

// The command line of `runbus` as data: one struct per subcommand, filled by parse_arguments(). The
// only unit that knows the command-line library is arguments.cc.
namespace runbus::cli {

// Which gateway a command talks to; see gateway_address.h for what an empty member means.
struct GatewayChoice {
  std::string url;
  std::string token_file;
  std::string state_dir;
};

// A flag of `up` whose value goes to the gateway or to each worker as it is, if it was given.
struct PassedOn {
  std::string flag;  // "--linger"
  std::string help;
  std::string value;
};

struct UpOptions {
  std::string listen = "127.0.0.1:7070";
  std::string state_dir;
  std::string token;
  std::string token_file;
  std::string config;
  unsigned workers = 1;
  unsigned brokers = 1;
  bool insecure = false;
  std::string engine;
  std::string runtime;
  bool allow_network = false;
  bool require_limits = false;
  std::vector<std::string> allow_origin;
  std::vector<PassedOn> to_gateway{
      {"--linger", "Seconds that a session outlives its connection (default: 60)", {}},
      {"--call-timeout", "Seconds that a call may take (default: 3600)", {}},
  };
  std::vector<PassedOn> to_worker{
      {"--languages", "Language table (default: the installed one)", {}},
      {"--memory", "Memory of a session, in bytes (default: 512 MiB)", {}},
      {"--cpus", "Processors of a session (default: 1)", {}},
      {"--processes", "Processes of a session (default: 256)", {}},
      {"--disk", "Bytes of a session's workspace (default: 1 GiB)", {}},
      {"--workspace-quota", "What bounds it: auto, loop, soft or none (default: auto)", {}},
      {"--max-sessions", "Sessions of this node at once (default: 256)", {}},
      {"--pool", "Sandboxes kept ready for new sessions, 0: none (default: 1)", {}},
      {"--destroy-after", "Seconds after which an unused session ends (default: 600)", {}},
      {"--pause-after",
       "Seconds after which an idle session is frozen, 0: never (default: 60)",
       {}},
      {"--result-ttl", "Seconds for which an ended run's output is kept (default: 300)", {}},
      {"--log-space", "Disk for the output of a session's runs, in bytes (default: 256 MiB)", {}},
      {"--node-log-space", "The same for all living sessions together (default: 4 GiB)", {}},
      {"--kept-log-space", "The same for all sessions that have ended (default: 1 GiB)", {}},
      {"--kept-logs", "Runs of ended sessions whose output is kept (default: 4096)", {}},
  };
  std::string broker_listen;
  std::string authorized_keys;
  bool check = false;
  bool json = false;
  std::string log_level = "warning";
  std::string bin_dir;  // where the other programs are; not a flag
};

struct ExecOptions {
  GatewayChoice gateway;
  std::string language;
  std::optional<std::string> code;
  std::string file;
  std::string session;
  std::optional<double> timeout;
  std::vector<std::string> arguments;
  bool json = false;
};

struct AttachOptions {
  GatewayChoice gateway;
  std::string execution;
  std::string session;
  std::uint64_t offset = 0;
  bool json = false;
};

struct CallOptions {
  GatewayChoice gateway;
  std::string method;
  std::string params = "{}";
  bool stream = false;
  double timeout = 0;  // seconds; 0: none
};

struct SubscribeOptions {
  GatewayChoice gateway;
  std::vector<std::string> topics;
  std::uint64_t count = 0;  // 0: until interrupted
  bool json = false;
};

struct WorkersOptions {
  GatewayChoice gateway;
  bool json = false;
};

struct DoctorOptions {
  std::string engine;
  std::string runtime;
  bool insecure = false;
  bool json = false;
  std::string bin_dir;  // not a flag
};

struct KeysNewOptions {
  std::string name;
  std::string role;
  std::string directory;
  bool json = false;
};

struct KeysServerOptions {
  std::string state_dir;
  bool json = false;
};

struct TokenOptions {
  std::string state_dir;
  bool make_new = false;
  bool json = false;
};

struct BenchOptions {
  GatewayChoice gateway;
  bool quick = false;
  bool json = false;
  bool insecure = false;
  std::string engine;
  std::vector<std::string> only;
};

// Hidden: `runbus up` runs it as a child, to see the whole path work before it says "ready".
struct SelfCheckOptions {
  GatewayChoice gateway;
};

// Hidden: the other ends of the baselines that `runbus bench` measures against.
struct BenchPeerOptions {
  std::string kind;
  std::vector<std::string> endpoints;
  int ready_fd = -1;
};

using Command = std::variant<UpOptions, ExecOptions, AttachOptions, CallOptions, SubscribeOptions,
                             WorkersOptions, DoctorOptions, KeysNewOptions, KeysServerOptions,
                             TokenOptions, BenchOptions, SelfCheckOptions, BenchPeerOptions>;

// The command line was no command: the text to print and the exit code (0 for --help and --version,
// else 2).
struct NoCommand {
  std::string text;
  int exit_code = 2;
};

// `arguments` without the program's name. Reads the file that `up --config` names; what the command
// line says wins.
std::variant<Command, NoCommand> parse_arguments(std::vector<std::string> arguments);

}  // namespace runbus::cli
