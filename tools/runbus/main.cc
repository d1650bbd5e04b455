#include <cstdio>
#include <exception>
#include <string>
#include <variant>
#include <vector>

#include "tools/runbus/arguments.h"
#include "tools/runbus/bench.h"
#include "tools/runbus/commands.h"
#include "tools/runbus/files.h"
#include "tools/runbus/up.h"

namespace runbus::cli {
namespace {

struct Run {
  int operator()(UpOptions& options) const {
    options.bin_dir = program_directory();
    return up(options);
  }
  int operator()(const ExecOptions& options) const { return exec(options); }
  int operator()(const AttachOptions& options) const { return attach(options); }
  int operator()(const CallOptions& options) const { return call(options); }
  int operator()(const SubscribeOptions& options) const { return subscribe(options); }
  int operator()(const WorkersOptions& options) const { return workers(options); }
  int operator()(DoctorOptions& options) const {
    options.bin_dir = program_directory();
    return doctor(options);
  }
  int operator()(const KeysNewOptions& options) const { return keys_new(options); }
  int operator()(const KeysServerOptions& options) const { return keys_server(options); }
  int operator()(const TokenOptions& options) const { return token(options); }
  int operator()(const BenchOptions& options) const { return bench(options); }
  int operator()(const SelfCheckOptions& options) const { return self_check(options); }
  int operator()(const BenchPeerOptions& options) const { return bench_peer(options); }
};

int run(int argc, char** argv) {
  std::variant<Command, NoCommand> parsed =
      parse_arguments(std::vector<std::string>(argv + 1, argv + argc));
  if (const NoCommand* none = std::get_if<NoCommand>(&parsed)) {
    std::fputs(none->text.c_str(), none->exit_code == 0 ? stdout : stderr);
    return none->exit_code;
  }
  return std::visit(Run(), std::get<Command>(parsed));
}

}  // namespace
}  // namespace runbus::cli

int main(int argc, char** argv) {
  try {
    return runbus::cli::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "runbus: %s\n", error.what());
    return 1;
  }
}
